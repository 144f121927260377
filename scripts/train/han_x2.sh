#!/usr/bin/env bash
# HAN x2, trained on DIV2K from RCAN x2, as its authors did.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 38.27 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 2 --patch_size 96 --epochs 1000 \
    --save HAN_x2 --pre_train "$project/experiment/RCAN_x2/model/model_best.pt" "$@"
