#!/usr/bin/env bash
# NLSN x4 with PCL-SR, trained on DIV2K from the weights of scripts/train/nlsn_x4.sh (--pre_train
# FILE: others).
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
# --rgb_range 1 makes L1 255 times smaller and leaves the contrastive term, so its weight is the
# preset's / 255.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template NLSN+PCL --scale 4 --patch_size 192 --rgb_range 1 \
    --loss 1*L1+3.9e-3*CL-patchD --save NLSN_PCL_FT_x4 --scheduler CosineRestart \
    --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600 --lr 5e-6 \
    --pre_train "$project/experiment/NLSN_x4/model/model_best.pt" "$@"
