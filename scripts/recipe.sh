# Sourced by scripts/train/NETWORK*.sh and scripts/test/NETWORK.sh: reads SCALE, their first
# argument, and leaves the flags in "$@".
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
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

# best NAME: print the path of the best weights of experiment/NAME
best() {
    echo "$project/experiment/$1/model/model_best.pt"
}
