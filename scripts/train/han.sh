#!/usr/bin/env bash
# HAN, trained on DIV2K from RCAN of the same scale, as its authors did.
#     scripts/train/han.sh SCALE [FLAGS of src/main.py]
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 38.27 (x2), 34.75 (x3), 32.64 (x4), 27.33 (x8) dB on Set5 (Niu et al., ECCV 2020; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
exec "$project/scripts/run.sh" --template HAN --scale "$scale" --patch_size $((48 * scale)) \
    --epochs 1000 --decay 200-400-600-800 --save "HAN_x$scale" \
    --pre_train "$(best "RCAN_x$scale")" "$@"
