#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), x8, trained on DIV2K from the x2 model.
# Hardware: one GPU of 8 GB or more.
# Expected PSNR: neither published nor measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --scale 8 --patch_size 384 --save EDSR_baseline_x8 \
    --pre_train "$project/experiment/EDSR_baseline_x2/model/model_best.pt" "$@"
