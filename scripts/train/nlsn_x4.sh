#!/usr/bin/env bash
# NLSN x4, trained on DIV2K from the x2 model.
# Hardware: one GPU of 32 GB or more, days; --split_batch N for less memory.
# Expected: 32.59 dB on Set5 (Mei et al., CVPR 2021; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN --scale 4 --patch_size 192 --rgb_range 1 \
    --epochs 1000 --decay 200-400-600-800 --save NLSN_x4 \
    --pre_train "$project/experiment/NLSN_x2/model/model_best.pt" "$@"
