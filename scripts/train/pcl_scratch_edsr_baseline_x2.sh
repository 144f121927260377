#!/usr/bin/env bash
# EDSR baseline x2 with PCL-SR, trained on DIV2K from scratch.
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template PCL --scale 2 --patch_size 96 \
    --save EDSR_baseline_PCL_scratch_x2 --epochs 1000 --decay 200-400-600-800 "$@"
