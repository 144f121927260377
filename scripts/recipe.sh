# Sourced by scripts/train/NETWORK*.sh and scripts/test/NETWORK.sh: reads SCALE, their first
# argument, and leaves the flags in "$@".
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
scale=${1:-}
case $scale in
    2 | 3 | 4 | 8) shift ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "$0"
        exit
        ;;
    *)
        echo "error: ${0##*/} ${scale:-without a scale}: the first argument must be the scale," \
            "one of 2, 3, 4, 8: ${0##*/} 4 [FLAGS]" >&2
        exit 2
        ;;
esac

find_experiments "$@"

# best NAME: print the path of the best weights of an experiment
best() {
    echo "$experiments/$1/model/model_best.pt"
}

# train_pcl NAME PRESETS LR [scratch] [FLAGS]: train with PCL-SR, from the best of NAME_xSCALE
# at the learning rate LR, or from scratch; own_flags are flags of this network alone
train_pcl() {
    local name=$1 presets=$2 lr=$3 recipe
    shift 3
    if [ "${1:-}" = scratch ]; then
        shift
        recipe=(--save "${name}_PCL_scratch_x$scale" --lr 1e-4 --scheduler MileStone --epochs 1000
            --decay 200-400-600-800)
    else
        recipe=(--save "${name}_PCL_FT_x$scale" --pre_train "$(best "${name}_x$scale")" --lr "$lr"
            --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 --epochs 600)
    fi
    exec "$project/scripts/run.sh" --template "$presets" --scale "$scale" \
        --patch_size $((48 * scale)) ${own_flags[@]+"${own_flags[@]}"} "${recipe[@]}" "$@"
}
