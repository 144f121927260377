#!/usr/bin/env bash
# HAN x3 with PCL-SR, trained on DIV2K from the weights of scripts/train/han_x3.sh (--pre_train
# FILE: others).
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template HAN+PCL --scale 3 --patch_size 144 --save HAN_PCL_FT_x3 \
    --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600 --lr 5e-5 \
    --pre_train "$project/experiment/HAN_x3/model/model_best.pt" "$@"
