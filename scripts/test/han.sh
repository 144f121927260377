#!/usr/bin/env bash
# HAN, tested with the weights of scripts/train/han.sh. --pre_train FILE tests others, published
# ones too.
#     scripts/test/han.sh SCALE [FLAGS of src/main.py]
# Expected: 38.27 (x2), 34.75 (x3), 32.64 (x4), 27.33 (x8) dB on Set5 (Niu et al., ECCV 2020; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
exec "$project/scripts/run.sh" --template HAN --scale "$scale" \
    --data_test Set5+Set14+B100+Urban100 --pre_train "$(best "HAN_x$scale")" --test_only \
    --save "HAN_x${scale}_test" "$@"
