#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), trained on DIV2K: x2 from scratch, x3, x4 and x8 from
# the x2 network.
#     scripts/train/edsr_baseline.sh SCALE [FLAGS of src/main.py]
# Hardware: one GPU of 8 GB or more.
# Expected: 34.61 (x2), 30.92 (x3), 28.95 (x4) dB on DIV2K 801-900, RGB, after 300 epochs
# (EDSR-PyTorch; not measured here).
# The training tests 801-810. For all 100: --test_only --data_test DIV2K --data_range 801-900.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
start=()
[ "$scale" = 2 ] || start=(--pre_train "$(best EDSR_baseline_x2)")
exec "$project/scripts/run.sh" --scale "$scale" --patch_size $((48 * scale)) \
    --save "EDSR_baseline_x$scale" ${start[@]+"${start[@]}"} "$@"
