#!/usr/bin/env bash
# Times, then tests the program on an NVIDIA GPU, each in less than 9 minutes:
#     scripts/dev/gpu_check.sh speed [DIR]   speed.txt: the tables of speed.sh; ranks.txt: a step on
#                                            two GPUs, if there are two
#     scripts/dev/gpu_check.sh tests [DIR]   tests.txt: tests/cuda/test_gpu.py
# Files go to DIR (gpu_check). Without a GPU, `speed` makes small calls on the CPU, to check the
# script. PYTHON names an interpreter that has all packages (with pytest), in place of .venv.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ -n "${PYTHON:-}" ] || setup requirements.txt requirements-test.txt || exit 1
part=${1:-} out=${2:-gpu_check}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$project" || exit 1
export PYTHON=${PYTHON:-$venv/bin/python}
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

bench=(scripts/dev/bench.py --repeats 3)
step=(step --scale 4 --precision bf16)
[ "$n_gpus" -gt 0 ] || step+=(--n_resblocks 1 --n_feats 8 --patch_size 48 --cpu)
pcl=("${step[@]}" --template PCL_InfoNCE)
case $part in
    speed)
        if [ "$n_gpus" -gt 0 ]; then
            nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
            section speed.txt scripts/dev/speed.sh 3
        else
            section speed.txt "$PYTHON" "${bench[@]}" --table "${step[@]}" -- "${pcl[@]}"
        fi
        if [ "$n_gpus" != 1 ]; then
            section ranks.txt "$PYTHON" -m torch.distributed.run --nproc_per_node=2 \
                "${bench[@]}" "${step[@]}" -- "${pcl[@]}"
        fi
        ;;
    tests) section tests.txt "$PYTHON" -m pytest -q -rs tests/cuda/test_gpu.py ;;
    *) echo "usage: scripts/dev/gpu_check.sh speed|tests [DIR]" >&2 && exit 2 ;;
esac
exit $failed
