#!/usr/bin/env bash
# NLSN x8, tested with the weights of scripts/train/nlsn_x8.sh; --pre_train FILE tests others.
# Expected PSNR: neither published nor measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN --rgb_range 1 --scale 8 \
    --data_test Set5+Set14+B100+Urban100+Manga109 \
    --pre_train "$project/experiment/NLSN_x8/model/model_best.pt" --test_only --save NLSN_x8_test \
    "$@"
