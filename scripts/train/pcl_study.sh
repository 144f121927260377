#!/usr/bin/env bash
# Trains and tests the experiments of the study in docs/pcl.md: what PCL-SR adds to L1.
#     scripts/train/pcl_study.sh [DIR_DATA [ROWS]]
#         DIR_DATA  has BSDS400/HR and benchmark/ (default: datasets)
#         ROWS      a pattern of names such as 'L1_s*': only these rows (default: '*')
# The rows start from experiment/model/EDSR_baseline_x4.pt and are trained for 300 steps more. Run
# it again to resume; finished experiments are left alone. Choices are made on the last 10 images
# of BSDS400. The benchmarks are tested for the rows with three seeds alone.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=${1:-$project/datasets}
only=${2:-*}
run=$project/scripts/run.sh

# train NAME [FLAGS]: train experiment/study/NAME, or resume it
train() {
    local flags=(--save "study/$1" --data_train BSDS400 --hold_out 10 --data_test BSDS400
        --dir_data "$data" --patch_size 96 --scale 4 --test_every 75 --precision bf16
        --n_threads 1 --scheduler Cosine --print_every 50 --save_results "${@:2}")
    if [ -f "$project/experiment/study/$1/model/state.pt" ]; then
        flags=(--load "study/$1")
    fi
    "$run" "${flags[@]}"
}

# row NAME [FLAGS]: fine-tune EDSR baseline x4
row() {
    # shellcheck disable=SC2053
    [[ $1 == $only ]] || return 0
    train "$1" --pre_train "$project/experiment/model/EDSR_baseline_x4.pt" --lr 1e-4 --epochs 4 \
        "${@:2}"
}

# benchmarks NAME [FLAGS]: test its last weights on the benchmarks, once
benchmarks() {
    # shellcheck disable=SC2053
    [[ $1 == $only && ! -d $project/experiment/study/$1/results-Urban100 ]] || return 0
    "$run" --load "study/$1" --test_only --save_results --data_test Set5+Set14+B100+Urban100
}

wavelet=(--use_wavelet --before_relu --no_ad_loss --cl_layer 4)
nce=("${wavelet[@]}" --cl_loss_type InfoNCE --use_aug --random_neg --only_blur --sharp_hr
    --sharp_value 0.5 --sharp_range 2.5)
ratio=("${wavelet[@]}" --cl_loss_type l1) # HR and bicubic alone

for seed in 1 2 3; do
    row "L1_s$seed" --seed "$seed"
    # the release's loss, with its gradient
    row "release_s$seed" --seed "$seed" "${nce[@]}" --contras_D_train --loss 1*L1+5*CL-patchD
done
for weight in 0.15 0.6 3; do
    row "nce_$weight" "${nce[@]}" --contras_D_train --loss "1*L1+$weight*CL-patchD"
done
for weight in 0.03 0.15 1; do
    row "ratio_$weight" "${ratio[@]}" --loss "1*L1+$weight*CL-patchD"
done
# temperatures of InfoNCE
row temperature_0.1 "${nce[@]}" --cl_temperature 0.1 --loss 1*L1+0.05*CL-patchD
row temperature_0.5 "${nce[@]}" --cl_temperature 0.5 --loss 1*L1+0.25*CL-patchD
# shallower and several layers
row ratio_1_layer2 "${ratio[@]}" --cl_layer 2 --loss 1*L1+1*CL-patchD
row ratio_1_layers012 "${ratio[@]}" --cl_layer 0,1,2 --loss 1*L1+1*CL-patchD
# negatives made of SR itself; an embedding that is trained before, and stays as it is
row self_1 "${ratio[@]}" --use_aug --blur_sr --loss 1*L1+1*CL-patchD
trained=$project/experiment/study/ratio_1/model/state.pt
row fixed_1 "${ratio[@]}" --embed_load "$trained" --gan_k 0 --loss 1*L1+1*CL-patchD
