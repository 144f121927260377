#!/usr/bin/env bash
# EDSR baseline (16 blocks of 64 features) with PCL-SR, trained on DIV2K from the weights of
# scripts/train/edsr_baseline.sh (--pre_train FILE: from others), or from scratch.
#     scripts/train/edsr_baseline_pcl.sh SCALE [scratch] [FLAGS of src/main.py]
# Hardware: one GPU of 24 GB or more, days; --split_batch N for less memory.
# Expected PSNR: not measured here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
if [ "${1:-}" = scratch ]; then
    shift
    recipe=(--save "EDSR_baseline_PCL_scratch_x$scale" --lr 1e-4 --scheduler MileStone --epochs 1000
        --decay 200-400-600-800)
else
    recipe=(--save "EDSR_baseline_PCL_FT_x$scale" --pre_train "$(best "EDSR_baseline_x$scale")"
        --lr 5e-5 --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600)
fi
exec "$project/scripts/run.sh" --template PCL --scale "$scale" --patch_size $((48 * scale)) \
    "${recipe[@]}" "$@"
