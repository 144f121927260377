#!/usr/bin/env bash
# NLSN x2, trained on DIV2K from scratch.
# Hardware: one GPU of 32 GB or more, days; --split_batch N for less memory.
# Expected: 38.34 dB on Set5 (Mei et al., CVPR 2021; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN --scale 2 --patch_size 96 --rgb_range 1 \
    --epochs 1000 --decay 200-400-600-800 --save NLSN_x2 "$@"
