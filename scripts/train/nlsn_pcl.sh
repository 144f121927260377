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
if [ "${1:-}" = scratch ]; then
    shift
    recipe=(--save "NLSN_PCL_scratch_x$scale" --lr 1e-4 --scheduler MileStone --epochs 1000
        --decay 200-400-600-800)
else
    recipe=(--save "NLSN_PCL_FT_x$scale" --pre_train "$(best "NLSN_x$scale")"
        --lr 5e-6 --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600)
fi
exec "$project/scripts/run.sh" --template NLSN+PCL --scale "$scale" --patch_size $((48 * scale)) \
    --rgb_range 1 --loss 1*L1+3.9e-4*CL-patchD "${recipe[@]}" "$@"
