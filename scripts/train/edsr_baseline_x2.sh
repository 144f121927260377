#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features), x2, trained on DIV2K from scratch.
# Hardware: one GPU of 8 GB or more.
# Expected after 300 epochs: 34.61 dB on DIV2K 801-900, RGB (EDSR-PyTorch's figure; not measured
# here). The training tests 801-810; for all: --test_only --data_test DIV2K --data_range 801-900.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --scale 2 --patch_size 96 --save EDSR_baseline_x2 "$@"
