#!/usr/bin/env bash
# HAN x4, trained on DIV2K from RCAN x4, as its authors did.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 32.64 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 4 --patch_size 192 --epochs 1000 \
    --save HAN_x4 --pre_train "$project/experiment/RCAN_x4/model/model_best.pt" "$@"
