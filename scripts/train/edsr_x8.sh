#!/usr/bin/env bash
# EDSR (32 blocks of 256 features), x8, trained on DIV2K from the x2 model.
# Hardware: one GPU of 16 GB or more; --split_batch N for less.
# Expected PSNR: neither published nor measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template EDSR_paper --scale 8 --patch_size 384 --save EDSR_x8 \
    --pre_train "$project/experiment/EDSR_x2/model/model_best.pt" "$@"
