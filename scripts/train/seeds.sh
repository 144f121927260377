#!/usr/bin/env bash
# Trains the same experiment with N seeds, one after the other, for `scripts/compare.py --group`.
#
#     scripts/train/seeds.sh NAME N FLAGS of src/main.py
#     scripts/train/seeds.sh L1 3 --scale 2 --data_test Set5 --epochs 100
#     scripts/train/seeds.sh PCL 3 --scale 2 --data_test Set5 --epochs 100 --template PCL_InfoNCE
#     scripts/compare.py --group "L1=L1_s1,L1_s2,L1_s3" "PCL=PCL_s1,PCL_s2,PCL_s3"
#
# The experiments are NAME_s1 to NAME_sN, with --seed 1 to N. The same command again resumes a run
# that was stopped, keeps those that are finished and adds seeds if N has grown.
set -euo pipefail
if [ $# -lt 2 ] || [[ ! $2 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
name=$1 n_seeds=$2
shift 2

find_experiments "$@"
again=() before='' # flags for a resumed run, without those of the start
for word in "$@"; do
    case $word in
        --save | --save=* | --load | --load=* | --seed | --seed=*)
            echo "error: ${word%%=*} must not be given: seeds.sh sets it" >&2
            exit 2
            ;;
    esac
    case $before,$word in
        --pre_train,* | --resume,* | *,--pre_train | *,--resume) ;;
        *,--pre_train=* | *,--resume=* | *,--reset) ;;
        *) again+=("$word") ;;
    esac
    before=$word
done

for seed in $(seq "$n_seeds"); do
    run=${name}_s$seed
    if [ -f "$experiments/$run/model/state.pt" ]; then
        "$project/scripts/run.sh" --load "$run" ${again[@]+"${again[@]}"}
    else
        "$project/scripts/run.sh" --save "$run" --seed "$seed" "$@"
    fi
done
echo "trained: ${name}_s1 to ${name}_s$n_seeds"
