#!/usr/bin/env bash
# Prints the tables of docs/performance.md as Markdown: on a GPU if there is one, else on the CPU.
# Nothing else should run meanwhile. It takes 5 minutes on 2 CPU cores.
#     scripts/dev/speed.sh [--repeats N]   measurements of a step and a small forward pass (9);
#                                          other cases have a third of them
#     scripts/dev/speed.sh --cpu           the CPU, even if there is a GPU
# PYTHON names an interpreter that has all packages, in place of .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ -n "${PYTHON:-}" ] || setup requirements.txt
cd "$project"
python=${PYTHON:-$python}
repeats=9 cpu=
while [ $# -gt 0 ]; do
    case $1 in
        --repeats) repeats=${2:?--repeats needs a number} && shift 2 ;;
        --cpu) cpu=--cpu && shift ;;
        *) echo "unknown flag $1" >&2 && exit 2 ;;
    esac
done
formats=("--precision single" "--precision bf16")
if [ -z "$cpu" ] && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$python" -c 'import torch; print(torch.cuda.get_device_name())'
    formats=("--precision single" "--precision single --tf32 true" "--precision bf16")
fi

# Prints a table of cases `CASE FLAGS`, each in every format of $formats.
bench() {
    local times=$1 title=$2 words=() format case
    shift 2
    for format in "${formats[@]}"; do
        for case in "$@"; do
            # shellcheck disable=SC2206
            words+=(-- $case $cpu $format)
        done
    done
    printf '\n### %s\n' "$title"
    "$python" scripts/dev/bench.py --table --repeats "$times" "${words[@]:1}"
}
few=$(((repeats + 2) / 3))
pcl="step --scale 4 --template PCL_InfoNCE"

bench "$repeats" "Training step, batch 16, patch 192" "plain --scale 4" "step --scale 4" "$pcl"
if [ ${#formats[@]} = 3 ]; then # on a GPU
    for template in EDSR_paper RCAN HAN NLSN; do
        bench "$few" "Training step of $template" "step --scale 4 --template $template"
    done
    all=("${formats[@]}") formats=("--precision bf16" "--precision bf16 --compile")
    bench "$few" "Training step, compiled" "step --scale 4" "$pcl"
    formats=("${all[@]}")
fi
for scale in 2 4; do
    title="Forward pass of a 128x128 image, x$scale"
    bench "$repeats" "$title, EDSR 16x64" "forward --scale $scale"
    for template in EDSR_paper RCAN HAN NLSN; do
        bench "$few" "$title, $template" "forward --scale $scale --template $template"
    done
done
formats=("")
for workers in 0 1 2; do
    bench "$few" "Input pipeline, images of 2040x1356" "pipeline --scale 4 --n_threads $workers"
done
