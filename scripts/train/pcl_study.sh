#!/usr/bin/env bash
# Trains and tests the experiments of docs/pcl_study.md: what PCL-SR and a teacher add to L1.
#     scripts/train/pcl_study.sh finetune|scratch [DIR_DATA [STEPS [ROWS]]]
#         finetune  EDSR baseline x4, from experiment/model/EDSR_baseline_x4.pt
#         scratch   the network of --template tiny, x2, from random weights
#         DIR_DATA  has BSDS400/HR, Photos/HR and benchmark/ (default: datasets)
#         STEPS     of each run (default: 3000; scratch 2500); another number is another study
#         ROWS      a pattern of names such as 'L1_s*': only these (default: '*')
# TEACHERS=FOLDER holds DCTLSA_x2.pt and DCTLSA_x4.pt (github.com/zengkun301/DCTLSA, Apache-2.0;
# pip install spandrel); without them the rows of a teacher are left out.
# Seed 1 of every row is trained first. Run it again to resume; finished experiments are left alone.
# The last 10 images of both training sets are for choices, the benchmarks are tested at the end.
set -euo pipefail
mode=${1:-}
if [[ ! $mode =~ ^(finetune|scratch)$ ]]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=${2:-$project/datasets}
[ "$mode" = finetune ] && scale=4 steps=${3:-3000} || { scale=2 steps=${3:-2500}; }
only=${4:-*}
teacher=${TEACHERS:-$project/experiment/teachers}/DCTLSA_x$scale.pt
study=study/${mode}_$steps
folder=$project/experiment/$study
benchmarks=Set5+Set14+B100+Urban100
metrics=psnr,ssim,haar
"${PYTHON:-$project/.venv/bin/python}" -c 'import pyiqa' 2> /dev/null && metrics+=,niqe
n_epochs=$((steps < 10 ? 1 : 10))
common=(--data_train BSDS400+Photos --hold_out 10 --data_test BSDS400+Photos --dir_data "$data"
    --n_threads 1 --scheduler Cosine --epochs "$n_epochs" --test_every $((steps / n_epochs)))
[ -w "$data" ] || common+=(--dir_cache "$project/experiment/study/cache")
if [ "$mode" = finetune ]; then
    network=(--scale 4 --pre_train "$project/experiment/model/EDSR_baseline_x4.pt"
        --patch_size 96 --batch_size 8 --lr 1e-4)
else
    network=(--template tiny --scale 2 --patch_size 64 --batch_size 16 --lr 1e-3)
fi

# row NAME SEED [FLAGS]: train NAME_sSEED or resume it, then test its last weights, once
row() {
    local name=$1_s$2
    # shellcheck disable=SC2053
    [[ $name == $only ]] || return 0
    if [ -f "$folder/$name/model/state.pt" ]; then
        "$project/scripts/run.sh" --load "$study/$name"
    else
        "$project/scripts/run.sh" --save "$study/$name" --seed "$2" "${network[@]}" \
            "${common[@]}" "${@:3}"
    fi
    [ ! -f "$folder/$name/benchmarks_are_tested" ] || return 0
    "$project/scripts/run.sh" --load "$study/$name" --test_only --save_results \
        --data_test "$benchmarks" --metrics "$metrics"
    touch "$folder/$name/benchmarks_are_tested"
}

# epochs_of NAME: print the epochs of L1_s1 that take as long as the training of NAME_s1
epochs_of() {
    "${PYTHON:-$project/.venv/bin/python}" - "$folder" "$1" "$n_epochs" << 'END'
import json, sys
def seconds(name):
    lines = map(json.loads, open(f"{sys.argv[1]}/{name}_s1/metrics.jsonl"))
    return sum(line.get("seconds", 0) for line in lines)
print(round(int(sys.argv[3]) * seconds(sys.argv[2]) / max(seconds("L1"), 1e-9)))
END
}

# the flags of the preset PCL, with the schedule of L1
pcl=(--no_ad_loss --use_wavelet --before_relu --cl_loss_type InfoNCE --cl_layer 4 --use_aug
    --random_neg --only_blur --sharp_hr --sharp_value 0.5 --sharp_range 2.5 --embed_scheduler same)
kd=(--teacher "$teacher")
for seed in 1 2 3; do
    row L1 "$seed"
    row PCL "$seed" "${pcl[@]}" --loss 1*L1+0.1*CL-patchD
    if [ "$mode" = finetune ]; then
        row PCL_strong "$seed" "${pcl[@]}" --loss 1*L1+0.6*CL-patchD
    fi
    if [ -f "$teacher" ]; then
        [ "$mode" = scratch ] || row KD "$seed" "${kd[@]}" --loss 1*L1+1*KD
        row KD_PCL "$seed" "${kd[@]}" "${pcl[@]}" --pos_teacher --loss 1*L1+1*KD+0.1*CL-patchD
    fi
    if [ "$mode" = scratch ] && [ -f "$folder/PCL_s1/metrics.jsonl" ]; then
        row L1_as_long_as_PCL "$seed" --epochs "$(epochs_of PCL)"
        [ ! -d "$folder/KD_PCL_s1" ] ||
            row L1_as_long_as_KD_PCL "$seed" --epochs "$(epochs_of KD_PCL)"
    fi
    if [ "$mode" = finetune ] && [ "$seed" = 1 ]; then
        row history 1 "${pcl[@]}" --neg_history 4 --loss 1*L1+0.1*CL-patchD
        row paper 1 "${pcl[@]}" --contras_D_train --gclip 1 --loss 1*L1+5*CL-patchD
        row ratio 1 --template PCL_ratio
    fi
done
if [ "$mode" = finetune ] && [ ! -d "$folder/start" ]; then
    "$project/scripts/run.sh" --save "$study/start" "${network[@]}" --dir_data "$data" \
        --test_only --save_results --data_test "$benchmarks" --metrics "$metrics"
fi

groups=()
for name in L1 PCL PCL_strong KD KD_PCL L1_as_long_as_PCL L1_as_long_as_KD_PCL history paper ratio; do
    members=
    for seed in 1 2 3; do
        if [ -f "$folder/${name}_s$seed/benchmarks_are_tested" ]; then
            members+=,$study/${name}_s$seed
        fi
    done
    [ -z "$members" ] || groups+=("$name=${members#,}")
done
"$project/scripts/compare.py" --group "${groups[@]}" --dir_data "$data"
