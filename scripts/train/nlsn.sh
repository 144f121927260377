#!/usr/bin/env bash
# NLSN, trained on DIV2K: x2 from scratch, x3, x4 and x8 from the x2 network.
#     scripts/train/nlsn.sh SCALE [FLAGS of src/main.py]
# Hardware: one GPU of 32 GB or more, days; --split_batch N for less memory.
# Expected: 38.34 (x2), 34.85 (x3), 32.59 (x4) dB on Set5 (Mei et al., CVPR 2021; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
start=()
[ "$scale" = 2 ] || start=(--pre_train "$(best NLSN_x2)")
exec "$project/scripts/run.sh" --template NLSN --scale "$scale" --patch_size $((48 * scale)) \
    --rgb_range 1 --epochs 1000 --decay 200-400-600-800 --save "NLSN_x$scale" \
    ${start[@]+"${start[@]}"} "$@"
