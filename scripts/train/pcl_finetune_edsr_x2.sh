#!/usr/bin/env bash
# EDSR x2 with PCL-SR, trained on DIV2K from the weights of scripts/train/edsr_x2.sh (--pre_train
# FILE: others).
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory. Expected PSNR: not
# measured here.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
exec "$project/scripts/run.sh" --template EDSR_paper+PCL --scale 2 --patch_size 96 \
    --save EDSR_PCL_FT_x2 --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 \
    --epochs 600 --lr 5e-5 --pre_train "$project/experiment/EDSR_x2/model/model_best.pt" "$@"
