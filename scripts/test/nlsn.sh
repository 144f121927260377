#!/usr/bin/env bash
# NLSN, tested with the weights of scripts/train/nlsn.sh. --pre_train FILE tests others, published
# ones too.
#     scripts/test/nlsn.sh SCALE [FLAGS of src/main.py]
# Expected: 38.34 (x2), 34.85 (x3), 32.59 (x4) dB on Set5 (Mei et al., CVPR 2021; not
# measured here).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
exec "$project/scripts/run.sh" --template NLSN --scale "$scale" --rgb_range 1 \
    --data_test Set5+Set14+B100+Urban100 --pre_train "$(best "NLSN_x$scale")" --test_only \
    --save "NLSN_x${scale}_test" "$@"
