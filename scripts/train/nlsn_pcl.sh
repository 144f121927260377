#!/usr/bin/env bash
# NLSN with PCL-SR, trained on DIV2K from the weights of scripts/train/nlsn.sh (--pre_train FILE:
# from others), or from scratch.
#     scripts/train/nlsn_pcl.sh SCALE [scratch] [FLAGS of src/main.py]
# Hardware: one GPU of 32 GB or more, days; --split_batch N for less memory.
# Expected PSNR: not measured here.
# --rgb_range 1 makes L1 255 times smaller and leaves the contrastive term, so its weight is the
# preset's / 255.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
own_flags=(--rgb_range 1 --loss 1*L1+3.9e-4*CL-patchD)
train_pcl NLSN NLSN+PCL 5e-6 "$@"
