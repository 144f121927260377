#!/usr/bin/env bash
# Upscales pictures and videos with a trained network.
#
#     scripts/upscale.sh IN OUT [FLAGS of src/main.py]
#     scripts/upscale.sh holiday.jpg big
#     scripts/upscale.sh holiday.jpg big --scale 2
#     scripts/upscale.sh old_photo.jpg big --real
#     scripts/upscale.sh photos photos_x2 --pre_train RCAN_BIX2.pt --format jpg --suffix _x2
#     scripts/upscale.sh clip.mp4 clip_x4.mp4 --load EDSR_baseline_x4
#
# IN   a picture (PNG, JPEG, BMP, TIFF, WebP, PPM), a video (MP4, MOV, MKV, WebM, AVI, MPEG; needs
#      the package imageio-ffmpeg), or a folder of them. Other files in the folder, and folders in
#      it, are listed and skipped.
# OUT  a folder, which is made if needed. It gets NAME.png of each picture (8 or 16 bits, as the
#      input) and NAME.mp4 of each video. Inputs with the same NAME become NAME.jpg.png and so on.
#      For a single input also a file: .png, .tif, .jpg, .webp or .mp4.
#
# Existing outputs are kept, except with --overwrite. The exit status is 1 if a file cannot be
# upscaled; the others are done. The log is experiment/upscale/log.txt.
#
# Weights: EDSR baseline of experiment/model, x4 or as --scale says (2, 3 or 4), for sharp pictures.
#     --real            x4, for photographs with noise, blur and JPEG artifacts
#     --fast            a small network x2, for old machines
#     --pre_train FILE  others, whose network and scale are read from FILE; `download`: the
#                       published EDSR baseline
#     --load NAME       an experiment, its latest weights
# Calls at the same time, except with --load, need a --save NAME each. Pictures are upscaled in
# tiles of 192 pixels (--chop_size), which limits the memory.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -lt 2 ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
    [ "${1:-}" = --help ] && exit 0 || exit 2
fi
in=$1 out=$2
if [[ ${in:---} == --* || ${out:---} == --* ]]; then
    echo "error: IN and OUT must come first and must not be empty, not '$in' '$out'" >&2
    exit 2
fi
shift 2
[[ " $* " == *" --load"* ]] || set -- --save upscale "$@"
kind='' named='' scale='' before='' flags=(--test_only)
for flag in "$@"; do
    case $flag in
        --real | --fast)
            named=${kind:-$named} kind=$flag
            continue
            ;;
        --load | --load=* | --pre_train | --pre_train=* | --model | --model=* | --template | \
            --template=*) named=${flag%%=*} ;;
        --scale=*) scale=${flag#*=} ;;
    esac
    [ "$before" != --scale ] || scale=$flag
    before=$flag
    flags+=("$flag")
done
if [ -n "$kind" ] && [ -n "$named" ]; then
    echo "error: $kind chooses the weights: remove $named" >&2
    exit 2
fi
case $kind in
    --real) file=EDSR_baseline_x${scale:-4}_real.pt ;;
    --fast) file=EDSR_tiny_x${scale:-2}.pt ;;
    *) file=EDSR_baseline_x${scale:-4}.pt ;;
esac
if [ -z "$named" ]; then
    if [ ! -f "$project/experiment/model/$file" ]; then
        echo "error: ${kind:+$kind }${scale:+--scale $scale }has no weights in experiment/model:" \
            "name some by --pre_train (no file $file)" >&2
        exit 2
    fi
    flags+=(--pre_train "$project/experiment/model/$file")
fi
exec "$project/scripts/run.sh" --data_test Demo --dir_demo="$in" --dir_out="$out" "${flags[@]}"
