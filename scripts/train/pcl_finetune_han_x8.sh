#!/usr/bin/env bash
# HAN x8 with PCL-SR, trained on DIV2K from the weights of scripts/train/han_x8.sh (--pre_train
# FILE: others).
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN+PCL --scale 8 --patch_size 384 --save HAN_PCL_FT_x8 \
    --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600 --lr 5e-5 \
    --pre_train "$project/experiment/HAN_x8/model/model_best.pt" "$@"
