#!/usr/bin/env bash
# NLSN x3, tested with the weights of scripts/train/nlsn_x3.sh; --pre_train FILE tests others,
# published ones too.
# Expected: 34.85 dB on Set5 (Mei et al., CVPR 2021; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN --scale 3 --rgb_range 1 \
    --data_test Set5+Set14+B100+Urban100+Manga109 \
    --pre_train "$project/experiment/NLSN_x3/model/model_best.pt" --test_only --save NLSN_x3_test \
    "$@"
