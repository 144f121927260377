#!/usr/bin/env bash
# From nothing to a trained network on a machine with Python 3.10 or later: makes .venv, installs requirements.txt, prepares
# the embedded photographs, trains a small EDSR x2 on the CPU, tests it and bicubic, prints the table and draws the picture.
# Under 5 minutes on 2 CPU cores after the installation. Running it again goes on from where it was.
#     DIR_DATA, DIR_EXPERIMENT: other folders than datasets and experiment. Further flags go to the training.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements.txt
data=${DIR_DATA:-$project/datasets}
experiments=${DIR_EXPERIMENT:-$project/experiment}
python=$venv/bin/python
name=quickstart_x2

echo "== data: photographs from scikit-image"
"$python" "$project/scripts/sample_data.py" --dir_data "$data" --scale 2

echo "== training: a small EDSR x2"
if [ -f "$experiments/$name/model/state.pt" ]; then
    run=(--load "$name")
else
    run=(--save "$name" --model EDSR --n_resblocks 8 --n_feats 32 --scale 2 --data_train sample_train
        --data_test sample_test --patch_size 64 --test_every 100 --epochs 8 --lr 1e-3 --scheduler Cosine
        --cosine_etamin 1e-5 --print_every 50 --n_threads 2)
fi
run+=(--dir_data "$data" --dir_experiment "$experiments" --cpu)
"$python" "$project/src/main.py" "${run[@]}" "$@"

echo "== test: bicubic, then the best epoch of the training"
test=(--data_test sample_test --scale 2 --dir_data "$data" --dir_experiment "$experiments" --test_only --cpu --reset)
"$python" "$project/src/main.py" --model Bicubic --save quickstart_bicubic_x2 "${test[@]}"
"$python" "$project/src/main.py" --n_resblocks 8 --n_feats 32 --save quickstart_EDSR_x2 "${test[@]}" \
    --pre_train "$experiments/$name/model/model_best.pt" --save_results --save_gt

echo "== PSNR (dB) / SSIM"
"$python" "$project/scripts/compare.py" --dir_experiment "$experiments" quickstart_bicubic_x2 quickstart_EDSR_x2
for image in astronaut chelsea coffee; do
    "$python" "$project/scripts/compare.py" --dir_experiment "$experiments" quickstart_EDSR_x2 \
        --figure "$experiments/$name/$image.png" --data_test sample_test --image "$image"
done
echo "curves: $experiments/$name/psnr_sample_test.png, loss_L1.png"
