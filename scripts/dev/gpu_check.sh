#!/usr/bin/env bash
# Times or tests the program on an NVIDIA GPU, in less than 9 minutes:
#     scripts/dev/gpu_check.sh speed [DIR]   speed.txt: the tables of speed.sh; ranks.txt: a step on
#                                            two GPUs, if there are two
#     scripts/dev/gpu_check.sh tests [DIR]   tests.txt: tests/cuda/test_gpu.py
# Files go to DIR (gpu_check). PYTHON names an interpreter that has all packages (with pytest), in
# place of .venv.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ -n "${PYTHON:-}" ] || setup requirements.txt requirements-test.txt || exit 1
out=${2:-gpu_check}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$project" || exit 1
export PYTHON=${PYTHON:-$venv/bin/python}
step=(step --scale 4 --precision bf16)
case ${1:-} in
    speed)
        timeout 430 scripts/dev/speed.sh 3 >"$out/speed.txt" 2>&1 || exit
        "$PYTHON" -c 'import sys, torch; sys.exit(torch.cuda.device_count() < 2)' || exit 0
        timeout 100 "$PYTHON" -m torch.distributed.run --nproc_per_node=2 scripts/dev/bench.py \
            --repeats 3 "${step[@]}" -- "${step[@]}" --template PCL_InfoNCE >"$out/ranks.txt" 2>&1
        ;;
    tests) timeout 530 "$PYTHON" -m pytest -q -rs tests/cuda/test_gpu.py >"$out/tests.txt" 2>&1 ;;
    *) echo "usage: scripts/dev/gpu_check.sh speed|tests [DIR]" >&2 && exit 2 ;;
esac
