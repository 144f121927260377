#!/usr/bin/env bash
# EDSR (32 blocks of 256 features), tested with the published weights (x8 is not published: with
# those of scripts/train/edsr.sh). --pre_train FILE tests others.
#     scripts/test/edsr.sh SCALE [FLAGS of src/main.py]
# Expected: 35.03 (x2), 31.26 (x3), 29.25 (x4) dB on DIV2K 801-900, RGB (EDSR-PyTorch; not measured
# here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
weights=download
[ "$scale" != 8 ] || weights=$(best EDSR_x8)
exec "$project/scripts/run.sh" --template EDSR_paper --scale "$scale" \
    --data_test Set5+Set14+B100+Urban100+DIV2K --data_range 801-900 --pre_train "$weights" \
    --test_only --save "EDSR_x${scale}_test" "$@"
