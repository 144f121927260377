#!/usr/bin/env bash
# Checks and times the program on an NVIDIA GPU, in less than 9 minutes:
#     scripts/dev/gpu_check.sh [DIR]      writes its files to DIR (gpu_check):
#   tests.txt   the tests on CUDA, of tests/cuda/test_gpu.py
#   speed.txt   the tables of speed.sh: float32, TF32, bf16 and compiled
#   ranks.txt   a step on two GPUs, if there are two; one_rank.txt: the same on one
# Without a GPU it makes the same calls on the CPU with small networks, to check the script.
# PYTHON names an interpreter that has all packages (with pytest), in place of .venv.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ -n "${PYTHON:-}" ] || setup requirements.txt requirements-test.txt || exit 1
out=${1:-gpu_check}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$project" || exit 1
export PYTHON=${PYTHON:-$python}
n_gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())') || exit 1
failed=0

# Runs a command with its output in a file, in the rest of 530 seconds.
section() {
    local file=$1 start=$SECONDS status
    shift
    timeout $((530 - SECONDS)) "$@" >"$out/$file" 2>&1
    status=$?
    echo "$file: exit status $status, $((SECONDS - start)) s"
    [ $status = 0 ] || failed=1
}

echo "$n_gpus GPUs"
[ "$n_gpus" -gt 0 ] && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
section tests.txt "$PYTHON" -m pytest -q -rs tests/cuda/test_gpu.py
step=(step --scale 4 --precision bf16)
small=(--n_resblocks 1 --n_feats 8 --patch_size 48 --cpu)
bench=(scripts/dev/bench.py --repeats 3)
if [ "$n_gpus" -gt 0 ]; then
    section speed.txt scripts/dev/speed.sh --repeats 3
else
    section speed.txt "$PYTHON" "${bench[@]}" --table "${step[@]}" "${small[@]}"
    step+=("${small[@]}")
fi
if [ "$n_gpus" != 1 ]; then
    ranks=(-m torch.distributed.run --nproc_per_node=2 "${bench[@]}")
    pcl=("${step[@]}" --template PCL_InfoNCE)
    section ranks.txt "$PYTHON" "${ranks[@]}" "${step[@]}" -- "${pcl[@]}"
    section one_rank.txt "$PYTHON" "${bench[@]}" "${step[@]}" -- "${pcl[@]}"
fi
exit $failed
