#!/usr/bin/env bash
# Quickstart: from a machine with Python 3.10 or later to trained networks and a table.
# Makes .venv, installs requirements.txt into it, and writes the photographs of scikit-image as data
# sets. Trains a small EDSR x2 on the CPU, fine-tunes it with L1 and with PCL-SR, tests all and
# bicubic, prints the table and draws the pictures. It takes less than 5 minutes on 2 CPU cores
# after the installation. A second call continues the first.
#     scripts/quickstart.sh [FLAGS of src/main.py]     FLAGS are for all trainings
# DIR_DATA and DIR_EXPERIMENT name other folders than datasets and experiment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements.txt
data=${DIR_DATA:-$project/datasets}
experiments=${DIR_EXPERIMENT:-$project/experiment}

echo "== data: photographs from scikit-image"
"$python" "$project/scripts/prepare_data.py" sample --dir_data "$data" --scale 2

# train NAME FLAGS...: train an experiment, or resume it
train() {
    local run=(--save "$1" --model EDSR --n_resblocks 8 --n_feats 32 --scale 2
        --data_train sample_train --data_test sample_test --patch_size 64 --lr 1e-3
        --scheduler Cosine --cosine_etamin 1e-5 --print_every 50 --n_threads 2 "${@:2}")
    [ ! -f "$experiments/$1/model/state.pt" ] || run=(--load "$1")
    "$python" "$project/src/main.py" "${run[@]}" "${common[@]}" ${flags[@]+"${flags[@]}"}
}

# evaluate NAME FLAGS...: test weights into an experiment of their own, with the pictures
evaluate() {
    local run=(--save "$1" --scale 2 --data_test sample_test --test_only --reset)
    "$python" "$project/src/main.py" "${run[@]}" --save_results --save_gt "${common[@]}" "${@:2}"
}

common=(--dir_data "$data" --dir_experiment "$experiments" --cpu)
flags=("$@")
best=model/model_best.pt
fine_tune=(--test_every 25 --epochs 2 --lr 1e-4
    --pre_train "$experiments/quickstart_train_EDSR/$best")
networks=(EDSR EDSR-L1 EDSR-PCL)

echo "== training 1 of 3: a small EDSR x2 with L1"
train quickstart_train_EDSR --test_every 100 --epochs 6
echo "== training 2 of 3: fine-tuning with L1"
train quickstart_train_EDSR-L1 "${fine_tune[@]}"
echo "== training 3 of 3: fine-tuning with PCL-SR, as long"
train quickstart_train_EDSR-PCL "${fine_tune[@]}" --template PCL --mcl_neg 1

echo "== test: bicubic, EDSR, EDSR after L1 and after PCL-SR"
evaluate quickstart_bicubic --model Bicubic
for name in "${networks[@]}"; do
    evaluate "quickstart_$name" --pre_train "$experiments/quickstart_train_$name/$best"
done

echo "== PSNR (dB) / SSIM"
compare=("$python" "$project/scripts/compare.py" --dir_experiment "$experiments")
"${compare[@]}" quickstart_bicubic "${networks[@]/#/quickstart_}"
for image in astronaut chelsea coffee; do
    "${compare[@]}" quickstart_EDSR-L1 quickstart_EDSR-PCL \
        --figure "$experiments/quickstart_$image.png" --data_test sample_test --image "$image"
done
echo "curves: $experiments/quickstart_train_*/psnr_sample_test.png and loss.png"
