#!/usr/bin/env bash
# Prints the tables of docs/performance.md as Markdown: on a GPU if there is one, else on the CPU.
# Nothing else should run meanwhile. It takes 5 minutes on 2 CPU cores.
#     scripts/dev/speed.sh [REPEATS]   measurements of each case (5)
# PYTHON names an interpreter that has all packages, in place of .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ -n "${PYTHON:-}" ] || setup requirements.txt
cd "$project"
python=${PYTHON:-$venv/bin/python}
repeats=${1:-5}
formats=("--precision single" "--precision bf16") templates=(EDSR_paper RCAN HAN NLSN)
pcl="step --scale 4 --template PCL_InfoNCE"
steps=("step --scale 4" "$pcl")
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$python" -c 'import torch; print(torch.cuda.get_device_name())'
    formats+=("--precision single --tf32 true" "--precision bf16 --compile")
    for template in "${templates[@]}"; do
        steps+=("step --scale 4 --template $template")
    done
fi

# Prints a table of cases `CASE FLAGS`, each in every format of $formats.
bench() {
    local title=$1 words=() format case
    shift
    for format in "${formats[@]}"; do
        for case in "$@"; do
            # shellcheck disable=SC2206
            words+=(-- $case $format)
        done
    done
    printf '\n### %s\n' "$title"
    "$python" scripts/dev/bench.py --table --repeats "$repeats" "${words[@]:1}"
}
bench "Training step, batch 16, patch 192" "${steps[@]}"
formats=("--precision single" "--precision bf16")
for scale in 2 4; do
    forward=("forward --scale $scale")
    for template in "${templates[@]}"; do
        forward+=("forward --scale $scale --template $template")
    done
    bench "Forward pass of a 128x128 image, x$scale" "${forward[@]}"
done
formats=("")
bench "Input pipeline, images of 2040x1356" "pipeline --scale 4 --n_threads "{0,1,2}
