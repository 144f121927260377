#!/usr/bin/env bash
# RCAN x2, trained on DIV2K from scratch.
# Hardware: one GPU of 16 GB or more, days; --split_batch N for less memory.
# Expected: 38.27 dB on Set5 (Zhang et al., ECCV 2018; not measured here).
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template RCAN --scale 2 --patch_size 96 --epochs 1000 \
    --save RCAN_x2 "$@"
