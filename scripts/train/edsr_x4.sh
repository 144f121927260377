#!/usr/bin/env bash
# EDSR (32 blocks of 256 features), x4, trained on DIV2K from the x2 model.
# Hardware: one GPU of 16 GB or more; --split_batch N for less.
# Expected after 300 epochs: 29.25 dB on DIV2K 801-900, RGB (EDSR-PyTorch's figure; not measured
# here). The training tests 801-810; for all: --test_only --data_test DIV2K --data_range 801-900.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template EDSR_paper --scale 4 --patch_size 192 --save EDSR_x4 \
    --pre_train "$project/experiment/EDSR_x2/model/model_best.pt" "$@"
