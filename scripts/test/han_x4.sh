#!/usr/bin/env bash
# HAN x4, tested with the weights of scripts/train/han_x4.sh; --pre_train FILE tests others,
# published ones too.
# Expected: 32.64 dB on Set5 (Niu et al., ECCV 2020; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN --scale 4 \
    --data_test Set5+Set14+B100+Urban100+Manga109 \
    --pre_train "$project/experiment/HAN_x4/model/model_best.pt" --test_only --save HAN_x4_test \
    "$@"
