#!/usr/bin/env bash
# Trains the weights of experiment/model further, on BSDS400 and Photos. The last 10 images of each
# set are for the choice of the best epoch. Run it again to resume.
#     scripts/train/zoo.sh TARGET [DIR_DATA [FLAGS of src/main.py]]
# TARGET    x2, x3, x4: EDSR baseline of this scale, from the shipped weights of the same scale
#           real: EDSR baseline x4 for photographs with noise, blur and JPEG artifacts, from x4
#           fast: a small EDSR x2 for old and slow machines, from scratch
# DIR_DATA  has BSDS400/HR and Photos/HR (default: datasets)
# The first shipped x2 had 9,000 steps on BSDS400 from scratch; from there x4 had 5,000, x3 3,000.
# Then 6,000 (x2), 7,500 (x3) and 8,000 (x4) of this script, from git show 39cfff8:experiment/model,
# 6,000 (x4) from 8a8e142's, 7,000 each (x2, x4) from 289ba01's: see docs/performance.md.
# The best weights are in experiment/zoo_TARGET/model/model_best.pt; the shipped files are float16.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
find_experiments "$@"
target=${1:-}
data=${2:-$project/datasets}
weights=$project/experiment/model/EDSR_baseline
case $target in
    x2 | x3 | x4)
        case $target in # an hour and a half of a core with bf16
            x2) size=(--epochs 12 --test_every 500 --batch_size 8) ;;
            x3) size=(--epochs 15 --test_every 500 --batch_size 12) ;;
            x4) size=(--epochs 32 --test_every 250) ;;
        esac
        run=(--scale "${target#x}" --pre_train "${weights}_$target.pt" --patch_size 96 --lr 3e-4
            "${size[@]}")
        ;;
    real)
        run=(--scale 4 --pre_train "${weights}_x4.pt" --degradation real --patch_size 96 --lr 2e-4
            --epochs 6 --test_every 250)
        ;;
    fast) run=(--template tiny --epochs 12) ;;
    *)
        echo "error: zoo.sh ${target:-without a target}: the first argument must be one of" \
            "x2, x3, x4, real, fast" >&2
        exit 2
        ;;
esac
run+=(--save "zoo_$target" --scheduler Cosine --cosine_etamin 1e-6 --use_ema --ema_iter 5
    --print_every 50 --dir_data "$data"
    --data_train BSDS400+Photos --hold_out 10 --data_test BSDS400+Photos)
if [ -f "$experiments/zoo_$target/model/state.pt" ]; then
    run=(--load "zoo_$target" --dir_data "$data")
fi
exec "$project/scripts/run.sh" "${run[@]}" "${@:3}"
