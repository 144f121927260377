#!/usr/bin/env bash
# RCAN, tested with the weights of scripts/train/rcan.sh. --pre_train FILE tests others, published
# ones too.
#     scripts/test/rcan.sh SCALE [FLAGS of src/main.py]
# Expected: 38.27 (x2), 34.74 (x3), 32.63 (x4), 27.31 (x8) dB on Set5 (Zhang et al., ECCV 2018; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
exec "$project/scripts/run.sh" --template RCAN --scale "$scale" \
    --data_test Set5+Set14+B100+Urban100 --pre_train "$(best "RCAN_x$scale")" --test_only \
    --save "RCAN_x${scale}_test" "$@"
