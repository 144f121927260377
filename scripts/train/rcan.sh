#!/usr/bin/env bash
# RCAN, trained on DIV2K: x2 from scratch, x3, x4 and x8 from the x2 network.
#     scripts/train/rcan.sh SCALE [FLAGS of src/main.py]
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 38.27 (x2), 34.74 (x3), 32.63 (x4), 27.31 (x8) dB on Set5 (Zhang et al., ECCV 2018; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
start=()
[ "$scale" = 2 ] || start=(--pre_train "$(best RCAN_x2)")
exec "$project/scripts/run.sh" --template RCAN --scale "$scale" --patch_size $((48 * scale)) \
    --epochs 1000 --decay 200-400-600-800 --save "RCAN_x$scale" ${start[@]+"${start[@]}"} "$@"
