#!/usr/bin/env bash
# HAN x2, tested with the weights of scripts/train/han_x2.sh; --pre_train FILE tests others,
# published ones too.
# Expected: 38.27 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 2 \
    --data_test Set5+Set14+B100+Urban100+Manga109 \
    --pre_train "$project/experiment/HAN_x2/model/model_best.pt" --test_only --save HAN_x2_test \
    "$@"
