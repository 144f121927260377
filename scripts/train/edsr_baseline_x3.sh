#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), x3, trained on DIV2K from the x2 model.
# Hardware: one GPU of 8 GB or more.
# Expected after 300 epochs: 30.92 dB on DIV2K 801-900, RGB (EDSR-PyTorch's figure; not measured
# here). The training tests 801-810; for all: --test_only --data_test DIV2K --data_range 801-900.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --scale 3 --patch_size 144 --save EDSR_baseline_x3 \
    --pre_train "$project/experiment/EDSR_baseline_x2/model/model_best.pt" "$@"
