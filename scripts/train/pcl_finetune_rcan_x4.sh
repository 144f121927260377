#!/usr/bin/env bash
# RCAN x4 with PCL-SR, trained on DIV2K from the weights of scripts/train/rcan_x4.sh (--pre_train
# FILE: others).
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template RCAN+PCL --scale 4 --patch_size 192 \
    --save RCAN_PCL_FT_x4 --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 \
    --epochs 600 --lr 5e-5 --pre_train "$project/experiment/RCAN_x4/model/model_best.pt" "$@"
