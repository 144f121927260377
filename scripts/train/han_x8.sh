#!/usr/bin/env bash
# HAN x8, trained on DIV2K from RCAN x8, as its authors did.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 27.33 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 8 --patch_size 384 --epochs 1000 \
    --save HAN_x8 --pre_train "$project/experiment/RCAN_x8/model/model_best.pt" "$@"
