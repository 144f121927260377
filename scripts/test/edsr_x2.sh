#!/usr/bin/env bash
# EDSR (32 blocks of 256 features), x2, tested with the published weights; --pre_train FILE tests
# others.
# Expected: 35.03 dB on DIV2K 801-900, RGB (EDSR-PyTorch's figure; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template EDSR_paper --scale 2 \
    --data_test Set5+Set14+B100+Urban100+DIV2K --data_range 801-900 --pre_train download \
    --test_only --save EDSR_x2_test "$@"
