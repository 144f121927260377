#!/usr/bin/env bash
# EDSR (32 blocks of 256 features), trained on DIV2K: x2 from scratch, x3, x4 and x8 from the x2
# network.
#     scripts/train/edsr.sh SCALE [FLAGS of src/main.py]
# Hardware: one GPU of 16 GB or more; --split_batch N for less.
# Expected: 35.03 (x2), 31.26 (x3), 29.25 (x4) dB on DIV2K 801-900, RGB, after 300 epochs
# (EDSR-PyTorch; not measured here).
# The training tests 801-810. For all 100: --test_only --data_test DIV2K --data_range 801-900.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
start=()
[ "$scale" = 2 ] || start=(--pre_train "$(best EDSR_x2)")
exec "$project/scripts/run.sh" --template EDSR_paper --scale "$scale" --patch_size $((48 * scale)) \
    --save "EDSR_x$scale" ${start[@]+"${start[@]}"} "$@"
