#!/usr/bin/env bash
# Upscales pictures and videos with a trained network.
#
#     scripts/upscale.sh IN OUT [FLAGS of src/main.py]
#     scripts/upscale.sh holiday.jpg big --pre_train EDSR_x4.pt
#     scripts/upscale.sh photos/ photos_x2/ --scale 2 --pre_train RCAN_BIX2.pt --template RCAN
#     scripts/upscale.sh clip.mp4 clip_x4.mp4 --load EDSR_baseline_x4
#
# IN   a picture (PNG, JPEG, BMP, TIFF, WebP, PPM), a video (MP4, MOV, MKV, WebM, AVI, MPEG; needs imageio-ffmpeg), or a folder
#      of them; what else is in the folder, other folders too, is listed and left alone.
# OUT  a folder, which is made: it gets NAME.png of each picture (8 or 16 bits, as the input) and NAME.mp4 of each video. Where
#      two inputs have the same NAME, they become NAME.jpg.png and so on. Or, for one input, a file that ends in .png, .tif
#      or .mp4. What is there stays as it is, unless --overwrite is given.
#
# Weights by --pre_train FILE, with the flags of their network (--scale, --template, ...; a message says which would fit), or by
# --load EXPERIMENT; `--pre_train download` is the published EDSR x4. Exit status 1 if any file could not be upscaled: the
# others are done. Log: experiment/upscale/log.txt. Tiles of 192 pixels (--chop_size) keep the memory small.
set -euo pipefail
if [ $# -lt 2 ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
    [ "${1:-}" = --help ] && exit 0 || exit 2
fi
in=$1 out=$2
shift 2
[[ " $* " == *" --load"* ]] || set -- --save upscale "$@"
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" --data_test Demo --dir_demo="$in" --dir_out="$out" --test_only "$@"
