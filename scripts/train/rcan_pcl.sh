#!/usr/bin/env bash
# RCAN with PCL-SR, trained on DIV2K from the weights of scripts/train/rcan.sh (--pre_train FILE:
# from others), or from scratch.
#     scripts/train/rcan_pcl.sh SCALE [scratch] [FLAGS of src/main.py]
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory.
# Expected PSNR: not measured here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
train_pcl RCAN RCAN+PCL 5e-5 "$@"
