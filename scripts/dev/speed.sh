#!/usr/bin/env bash
# Times what the README's tables of speed show, as Markdown tables: on the GPU where there is one, else on the CPU. Nothing else
# should run meanwhile. Some 6 minutes on 2 CPU cores.
#     scripts/dev/speed.sh [--repeats N]      N timed runs of each training step and small forward (9; of others a third of them)
#     scripts/dev/speed.sh --cpu              the CPU, even beside a GPU
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
setup requirements.txt
cd "$project"
repeats=9 cpu=()
while [ $# -gt 0 ]; do
    case $1 in
        --repeats) repeats=${2:?--repeats needs a number} && shift 2 ;;
        --cpu) cpu=(--cpu) && shift ;;
        *) echo "unknown flag $1" >&2 && exit 2 ;;
    esac
done
python=$venv/bin/python
device=$("$python" -c 'import sys, torch; print("cuda" if torch.cuda.is_available() and len(sys.argv) < 2 else "cpu")' ${cpu[@]+"${cpu[@]}"})
formats=("--precision single" "--precision bf16")
if [ "$device" = cuda ]; then
    "$python" -c 'import torch; print(torch.cuda.get_device_name())'
    formats=("--precision single --tf32 false" "--precision single" "--precision bf16" "--precision bf16 --compile")
fi

# Timed in turn: the cases of the words CASE FLAGS, each in every format.
bench() {
    local times=$1 name=$2 words=() format
    shift 2
    for format in "${formats[@]}"; do
        for case in "$@"; do
            [[ $format == *--compile* && $case != step* ]] && continue # which alone is compiled
            # shellcheck disable=SC2206
            words+=(-- $case ${cpu[@]+"${cpu[@]}"} $format)
        done
    done
    printf '\n### %s\n' "$name"
    "$python" scripts/dev/bench.py --table --repeats "$times" "${words[@]:1}"
}
few=$(((repeats + 2) / 3))

bench "$repeats" "Training step, batch 16, patch 192" "plain --scale 4" "step --scale 4" "step --scale 4 --template PCL"
for scale in 2 4; do
    bench "$repeats" "Forward of a 128x128 image x$scale, EDSR baseline" "forward --scale $scale"
    for template in EDSR_paper RCAN HAN NLSN; do
        bench "$few" "Forward of a 128x128 image x$scale, $template" "forward --scale $scale --template $template"
    done
done
formats=("")
bench "$few" "Input pipeline, images of 2040x1356" "pipeline --scale 4 --n_threads 0" "pipeline --scale 4 --n_threads 1" "pipeline --scale 4 --n_threads 2"
