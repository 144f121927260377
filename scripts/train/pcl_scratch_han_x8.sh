#!/usr/bin/env bash
# HAN x8 with PCL-SR, trained on DIV2K from scratch.
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN+PCL --scale 8 --patch_size 384 \
    --save HAN_PCL_scratch_x8 --epochs 1000 --decay 200-400-600-800 "$@"
