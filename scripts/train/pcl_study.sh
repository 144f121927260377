#!/usr/bin/env bash
# Trains and tests the experiments of the study in docs/pcl.md: what PCL-SR adds to L1.
#     scripts/train/pcl_study.sh [DIR_DATA [ROWS]]
#         DIR_DATA  has BSDS400/HR and benchmark/ (default: datasets)
#         ROWS      a pattern of names such as 'L1_s*': only these rows (default: '*')
# The rows start from experiment/model/EDSR_baseline_x4.pt, or from a small network trained here,
# and are fine-tuned for 300 steps. Run it again to resume; finished experiments are left alone.
# Choices are made on the last 10 images of BSDS400, which no row is trained on. The benchmarks are
# tested for the rows with three seeds, and for the small networks.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=${1:-$project/datasets}
only=${2:-*}
run=$project/scripts/run.sh
weights=$project/experiment/model/EDSR_baseline_x4.pt
benchmarks=Set5+Set14+B100+Urban100
validation=(--data_train BSDS400 --hold_out 10 --data_test BSDS400 --dir_data "$data" --scale 4
    --n_threads 1 --save_results)

# wants NAME: return whether ROWS selects it
wants() {
    # shellcheck disable=SC2053
    [[ $1 == $only ]]
}

# row NAME [FLAGS]: train experiment/study/NAME, or resume it
row() {
    wants "$1" || return 0
    local flags=(--save "study/$1" "${validation[@]}" --patch_size 96 --batch_size 8
        --test_every 75 --epochs 4 --precision bf16 --lr 1e-4 --scheduler Cosine --print_every 50
        "${@:2}")
    if [ -f "$project/experiment/study/$1/model/state.pt" ]; then
        flags=(--load "study/$1")
    fi
    "$run" "${flags[@]}"
}

# benchmarks NAME: test its last weights, once
benchmarks() {
    local done=$project/experiment/study/$1/benchmarks_are_tested
    wants "$1" && [ ! -f "$done" ] || return 0
    "$run" --load "study/$1" --test_only --save_results --data_test "$benchmarks"
    touch "$done"
}

# small MODEL FLAGS: a network of a quarter of the published depth and width, trained with L1 for
# 1,200 steps, then fine-tuned with L1 and with the best form
small() {
    local start=$project/experiment/study/$1_start/model/model_latest.pt
    row "$1_start" --model "${@}" --lr 5e-4 --epochs 16
    row "$1_L1" --pre_train "$start" --model "${@}"
    row "$1_PCL" --pre_train "$start" --model "${@}" "${best[@]}"
    for name in start L1 PCL; do
        benchmarks "$1_$name"
    done
}

wavelet=(--use_wavelet --before_relu --no_ad_loss --cl_layer 4)
nce=("${wavelet[@]}" --cl_loss_type InfoNCE --use_aug --random_neg --only_blur --sharp_hr
    --sharp_value 0.5 --sharp_range 2.5)
ratio=("${wavelet[@]}" --cl_loss_type l1) # HR and bicubic alone
baseline=(--pre_train "$weights")

if wants none && [ ! -d "$project/experiment/study/none" ]; then
    "$run" --save study/none "${baseline[@]}" "${validation[@]}" --test_only --precision bf16 \
        --data_test "BSDS400+$benchmarks"
fi
for seed in 1 2 3; do
    row "L1_s$seed" "${baseline[@]}" --seed "$seed"
    # the release's loss, with its gradient
    row "release_s$seed" "${baseline[@]}" --seed "$seed" "${nce[@]}" --contras_D_train \
        --loss 1*L1+5*CL-patchD
done
for weight in 0.15 0.6 3; do
    row "nce_$weight" "${baseline[@]}" "${nce[@]}" --loss "1*L1+$weight*CL-patchD"
done
for weight in 0.03 0.15 1; do
    row "ratio_$weight" "${baseline[@]}" "${ratio[@]}" --loss "1*L1+$weight*CL-patchD"
done
# temperatures of InfoNCE
for weight in 0.1:0.05 0.5:0.25; do
    row "temperature_${weight%:*}" "${baseline[@]}" "${nce[@]}" --cl_temperature "${weight%:*}" \
        --loss "1*L1+${weight#*:}*CL-patchD"
done
# shallower and several layers
row ratio_1_layer2 "${baseline[@]}" "${ratio[@]}" --cl_layer 2 --loss 1*L1+1*CL-patchD
row ratio_1_layers012 "${baseline[@]}" "${ratio[@]}" --cl_layer 0,1,2 --loss 1*L1+1*CL-patchD
# negatives made of SR itself; an embedding that was trained before, and stays as it is
row self_1 "${baseline[@]}" "${ratio[@]}" --use_aug --blur_sr --loss 1*L1+1*CL-patchD
row fixed_1 "${baseline[@]}" "${ratio[@]}" --gan_k 0 --loss 1*L1+1*CL-patchD \
    --embed_load "$project/experiment/study/ratio_1/model/state.pt"

# the two forms that lose least PSNR for the NIQE that they gain on the validation images
best=("${ratio[@]}" --cl_layer 2 --loss 1*L1+1*CL-patchD)
for seed in 2 3; do
    row "ratio_0.15_s$seed" "${baseline[@]}" "${ratio[@]}" --seed "$seed" \
        --loss 1*L1+0.15*CL-patchD
    row "ratio_1_layer2_s$seed" "${baseline[@]}" "${best[@]}" --seed "$seed"
done
for name in {L1,release}_s{1,2,3} ratio_0.15{,_s2,_s3} ratio_1_layer2{,_s2,_s3}; do
    benchmarks "$name"
done

small RCAN --n_resgroups 3 --n_resblocks 5 --n_feats 16
small HAN --n_resgroups 3 --n_resblocks 5 --n_feats 16
small NLSN --n_resblocks 8 --n_feats 64 --res_scale 0.1
