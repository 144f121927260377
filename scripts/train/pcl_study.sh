#!/usr/bin/env bash
# Trains and tests the experiments of docs/pcl_study.md: what PCL-SR and a teacher add to L1.
#     scripts/train/pcl_study.sh finetune|scratch [DIR_DATA [STEPS [ROWS]]]
#         finetune  EDSR baseline x4, from START (default: experiment/model/EDSR_baseline_x4.pt)
#         scratch   the network of --template tiny, x2, from random weights
#         DIR_DATA  has BSDS400/HR, Photos/HR and benchmark/ (default: datasets)
#         STEPS     of each run, a multiple of 10 or below (default: 1000); another number is
#                   another study
#         ROWS      a pattern of names such as 'L1_s*': only these (default: '*')
# TEACHERS=FOLDER holds DCTLSA_x2.pt and DCTLSA_x4.pt (github.com/zengkun301/DCTLSA, Apache-2.0);
# without them the rows of a teacher are left out. They need spandrel, see docs/models.md.
# Seed 1 of every row is trained first. Run it again to resume; finished experiments are left alone.
# The last 10 images of both training sets are for choices, the benchmarks are tested at the end.
set -euo pipefail
mode=${1:-}
if [[ ! $mode =~ ^(finetune|scratch)$ ]]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
find_any_python
data=${2:-$project/datasets}
steps=${3:-1000}
only=${4:-*}
if [[ ! $steps =~ ^([1-9]|[1-9][0-9]*0)$ ]]; then
    echo "error: pcl_study.sh $mode: STEPS, $steps, must be a multiple of 10, or 1 to 9" >&2
    exit 2
fi
if [ "$mode" = finetune ]; then
    scale=4
    given=("${START:-$project/experiment/model/EDSR_baseline_x4.pt}")
    network=(--scale 4 --pre_train "${given[0]}" --patch_size 96 --batch_size 8 --lr 1e-4)
else
    scale=2
    given=()
    network=(--template tiny --scale 2 --patch_size 64 --batch_size 4 --lr 1e-3)
fi
teacher=${TEACHERS:-$project/experiment/teachers}/DCTLSA_x$scale.pt
study=study/${mode}_$steps
folder=$project/experiment/$study
benchmarks=Set5+Set14+B100+Urban100
metrics=psnr,ssim,haar
"$python" -c 'import pyiqa' 2> /dev/null && metrics+=,niqe
n_epochs=$((steps < 10 ? 1 : 10))
steps_per_epoch=$((steps / n_epochs))
common=(--data_train BSDS400+Photos --hold_out 10 --data_test BSDS400+Photos --dir_data "$data"
    --n_threads 1 --scheduler Cosine --epochs "$n_epochs" --test_every "$steps_per_epoch")
[ -w "$data" ] || common+=(--dir_cache "$project/experiment/study/cache")
# all runs of a study must have the same start and teacher
for file in ${given[@]+"${given[@]}"} "$teacher"; do
    sum=$folder/$(basename "$file").cksum
    if [ -f "$file" ] && [ -f "$sum" ] && [ "$(cksum < "$file")" != "$(< "$sum")" ]; then
        echo "error: $file is not the file that $study began with: restore it, or move" \
            "experiment/$study away" >&2
        exit 1
    fi
    mkdir -p "$folder"
    [ ! -f "$file" ] || cksum < "$file" > "$sum"
done

# is_finished NAME: whether a run is trained and tested
is_finished() { [ -f "$folder/$1/benchmarks_are_tested" ]; }

# is_due NAME: whether a run is asked for by ROWS and not finished
is_due() {
    # shellcheck disable=SC2053
    [[ $1 == $only ]] && ! is_finished "$1"
}

# row NAME SEED [FLAGS]: train NAME_sSEED or resume it, then test its last weights, once
row() {
    local name=$1_s$2 again=(--dir_data "$data")
    is_due "$name" || return 0
    if [ -f "$folder/$name/model/state.pt" ]; then
        [[ " $* " != *" --teacher "* ]] || again+=(--teacher "$teacher")
        "$project/scripts/run.sh" --load "$study/$name" "${again[@]}"
    else
        "$project/scripts/run.sh" --save "$study/$name" --seed "$2" "${network[@]}" \
            "${common[@]}" "${@:3}"
    fi
    "$project/scripts/run.sh" --load "$study/$name" --test_only --save_results \
        --dir_data "$data" --data_test "$benchmarks" --metrics "$metrics"
    touch "$folder/$name/benchmarks_are_tested"
}

# L1_as_long_as NAME SEED: the row of L1 with the steps that take as long as NAME_s1
L1_as_long_as() {
    local test_every
    is_due "L1_as_long_as_$1_s$2" || return 0
    if ! is_finished L1_s1 || ! is_finished "$1_s1"; then
        echo "L1_as_long_as_$1 is left out: L1_s1 and $1_s1 are not finished"
        return 0
    fi
    test_every=$("$python" - "$folder" "$1" "$steps_per_epoch" << 'END'
import json, statistics, sys
def seconds(name):  # of an epoch
    lines = map(json.loads, open(f"{sys.argv[1]}/{name}_s1/metrics.jsonl"))
    return statistics.median(line["seconds"] for line in lines if "loss" in line)
print(round(int(sys.argv[3]) * seconds(sys.argv[2]) / max(seconds("L1"), 0.1)))
END
    )
    row "L1_as_long_as_$1" "$2" --test_every "$test_every"
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
    if [ "$mode" = scratch ]; then
        L1_as_long_as PCL "$seed"
        [ ! -f "$teacher" ] || L1_as_long_as KD_PCL "$seed"
    fi
    if [ "$mode" = finetune ] && [ "$seed" = 1 ]; then
        row history 1 "${pcl[@]}" --neg_history 4 --loss 1*L1+0.1*CL-patchD
        row paper 1 "${pcl[@]}" --embed_scheduler constant --contras_D_train --gclip 1 \
            --loss 1*L1+5*CL-patchD
        row ratio 1 --template PCL_ratio
    fi
done
if [ "$mode" = finetune ] && is_due start; then
    for flags in "--data_train BSDS400+Photos --hold_out 10 --data_test BSDS400+Photos" \
        "--data_test $benchmarks --save_results --metrics $metrics"; do
        # shellcheck disable=SC2086
        "$project/scripts/run.sh" --save "$study/start" "${network[@]}" --dir_data "$data" \
            --test_only $flags
    done
    touch "$folder/start/benchmarks_are_tested"
fi

groups=()
for name in L1 PCL PCL_strong KD KD_PCL L1_as_long_as_{PCL,KD_PCL} history paper ratio; do
    members=
    for seed in 1 2 3; do
        ! is_finished "${name}_s$seed" || members+=,$study/${name}_s$seed
    done
    [ -z "$members" ] || groups+=("$name=${members#,}")
done
! is_finished start || groups+=("start=$study/start")
if [ ${#groups[@]} = 0 ]; then
    echo "no run of $study is finished"
    exit
fi
compare=("$project/scripts/compare.py" --group "${groups[@]}" --dir_data "$data")
"${compare[@]}"
[ ${#groups[@]} = 1 ] || "${compare[@]}" --gains "$folder/gains.png"
