#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), x3, tested with the published weights; --pre_train
# FILE tests others.
# Expected: 30.92 dB on DIV2K 801-900, RGB (EDSR-PyTorch's figure; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --scale 3 --data_test Set5+Set14+B100+Urban100+DIV2K \
    --data_range 801-900 --pre_train download --test_only --save EDSR_baseline_x3_test "$@"
