#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), tested with the published weights (x8 is not published:
# with those of scripts/train/edsr_baseline.sh). --pre_train FILE tests others.
#     scripts/test/edsr_baseline.sh SCALE [FLAGS of src/main.py]
# Expected: 34.61 (x2), 30.92 (x3), 28.95 (x4) dB on DIV2K 801-900, RGB (EDSR-PyTorch; not measured
# here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
weights=download
[ "$scale" != 8 ] || weights=$(best EDSR_baseline_x8)
exec "$project/scripts/run.sh" --scale "$scale" --data_test Set5+Set14+B100+Urban100+DIV2K \
    --data_range 801-900 --pre_train "$weights" --test_only --save "EDSR_baseline_x${scale}_test" \
    "$@"
