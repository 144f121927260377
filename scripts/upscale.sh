#!/usr/bin/env bash
# Upscales pictures and videos with a trained network.
#
#     scripts/upscale.sh IN OUT [FLAGS of src/main.py]
#     scripts/upscale.sh holiday.jpg big
#     scripts/upscale.sh holiday.jpg big --scale 2
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
# Weights: EDSR baseline of experiment/model, x4 or as --scale says (2, 3 or 4); --pre_train FILE,
# whose network and scale are read from it; --load EXPERIMENT (its latest weights); `--pre_train
# download`, the published EDSR baseline. Pictures are upscaled in tiles of 192 pixels
# (--chop_size), which limits the memory.
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
    [ "${1:-}" = --help ] && exit 0 || exit 2
fi
in=$1 out=$2
shift 2
[[ " $* " == *" --load"* ]] || set -- --save upscale "$@"
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
flags=" $* "
if [[ $flags != *[[:space:]]--@(load|pre_train|model|template)[[:space:]=]* ]]; then
    scale=4
    [[ $flags =~ [[:space:]]--scale[[:space:]=]([^[:space:]]+) ]] && scale=${BASH_REMATCH[1]}
    weights=$project/experiment/model/EDSR_baseline_x$scale.pt
    if [ ! -f "$weights" ]; then
        echo "error: --scale $scale has no weights in experiment/model: name some by" \
            "--pre_train" >&2
        exit 2
    fi
    set -- --pre_train "$weights" "$@"
fi
exec "$project/scripts/run.sh" --data_test Demo --dir_demo="$in" --dir_out="$out" --test_only "$@"
