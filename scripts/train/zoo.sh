#!/usr/bin/env bash
# Trains the weights of experiment/model: EDSR baseline x2 on BSDS400, then x4 and x3 from x2.
# 390 images are for training; the last 10 choose the best epoch. Run it again to resume.
#     scripts/train/zoo.sh [DIR_DATA]     DIR_DATA has BSDS400/HR (default: datasets)
# Time on busy CPU cores with AVX-512 BF16, and PSNR on Set5: x2 1.5 hours on 2 cores, 37.54 dB;
# x4 1.7 hours on one core, 31.54 dB; x3 50 minutes on one core, 33.76 dB.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=${1:-$project/datasets}

# train SCALE PATCH EPOCHS [FLAGS]: train an experiment, or resume it
train() {
    local name=EDSR_baseline_x$1
    local flags=(--save "$name" --scale "$1" --patch_size "$2" --epochs "$3" --test_every 250
        --data_train BSDS400 --hold_out 10 --data_test BSDS400 --dir_data "$data" --precision bf16
        --lr 5e-4 --scheduler Cosine --cosine_etamin 1e-6 --use_ema --ema_iter 5 --print_every 50)
    if [ -f "$project/experiment/$name/model/state.pt" ]; then
        flags=(--load "$name")
    fi
    "$project/scripts/run.sh" "${flags[@]}" "${@:4}"
}

best=$project/experiment/EDSR_baseline_x2/model/model_best.pt
train 2 64 36
train 4 128 20 --pre_train "$best"
train 3 96 12 --pre_train "$best"
