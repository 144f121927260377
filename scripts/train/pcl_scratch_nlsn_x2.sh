#!/usr/bin/env bash
# NLSN x2 with PCL-SR, trained on DIV2K from scratch.
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
# --rgb_range 1 makes L1 255 times smaller and leaves the contrastive term, so its weight is the
# preset's / 255.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN+PCL --scale 2 --patch_size 96 --rgb_range 1 \
    --loss 1*L1+3.9e-3*CL-patchD --save NLSN_PCL_scratch_x2 --epochs 1000 --decay 200-400-600-800 \
    "$@"
