#!/usr/bin/env bash
# RCAN x4, trained on DIV2K from the x2 model.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 32.63 dB on Set5 (Zhang et al., ECCV 2018; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template RCAN --scale 4 --patch_size 192 --epochs 1000 \
    --save RCAN_x4 --pre_train "$project/experiment/RCAN_x2/model/model_best.pt" "$@"
