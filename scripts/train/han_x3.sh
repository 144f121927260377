#!/usr/bin/env bash
# HAN x3, trained on DIV2K from RCAN x3, as its authors did.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 34.75 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 3 --patch_size 144 --epochs 1000 \
    --save HAN_x3 --pre_train "$project/experiment/RCAN_x3/model/model_best.pt" "$@"
