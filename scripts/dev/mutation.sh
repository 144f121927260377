#!/usr/bin/env bash
# Mutation testing by mutmut: change the code in one place at a time, list the changes that no test
# notices. Installs the packages that it needs into .venv.
#     scripts/dev/mutation.sh                      metric, optim, losses, networks, resize, patches
#     scripts/dev/mutation.sh src/metric.py ...    these files
# A file is tested by its own tests (table below), which takes minutes. JOBS=4 sets the number of
# processes (default: the cores). The project is copied to a temporary folder. WORK=DIR keeps the
# copy of the last file, in which `python -m mutmut show NAME` and `browse` work.
# mutmut 3 changes functions and methods, except those with decorators. Module level stays as it is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
setup requirements.txt requirements-test.txt requirements-dev.txt
cd "$project"

# tests of a file, as patterns; those that match no file are left out
tests_of() {
    case $1 in
    src/metric.py) echo tests/test_metric*.py tests/test_numbers_metric*.py ;;
    src/optim.py) echo tests/test_numbers_optim.py tests/test_{weight_cast,train}.py ;;
    src/loss/samples.py) echo tests/test_numbers_{samples,loss}.py tests/test_loss.py ;;
    src/loss/*)
        echo tests/test_numbers_{adversarial,embedding,loss,optim}.py tests/test_{loss,pcl}.py
        ;;
    src/model/inference.py) echo tests/test_networks.py tests/test_upscale.py ;;
    src/model/common.py) echo tests/test_{golden_networks,numbers_networks,networks,precision}.py ;;
    src/model/*) echo tests/test_{golden,numbers}_networks.py tests/test_networks.py ;;
    src/data/resize.py) echo tests/test_resize.py tests/test_numbers_networks.py ;;
    src/data/*) echo tests/test_data*.py tests/test_numbers_data*.py ;;
    *) echo "tests/test_$(basename "$1")" ;;
    esac
}

# networks: those that mutation testing can judge by numbers
default_files=(src/metric.py src/optim.py src/loss/*.py src/data/resize.py src/data/patches.py)
for name in bicubic common edsr han inference nlsn rcan; do
    default_files+=("src/model/$name.py")
done

mutate() { # FILE COPY: one line of figures, then the survivors
    local file=$1 copy=$2 tests=() pattern
    for pattern in $(cd "$copy" && tests_of "$file"); do
        [ -e "$copy/$pattern" ] && tests+=("$pattern")
    done
    if [ ${#tests[@]} -eq 0 ]; then
        echo "error: $file: scripts/dev/mutation.sh names no tests of it" >&2
        return 1
    fi
    cd "$copy"
    rm -rf mutants
    cp pyproject.toml.original pyproject.toml
    {
        echo '[tool.mutmut]'
        echo 'source_paths = ["src"]'
        echo "only_mutate = [\"$file\"]"
        echo 'do_not_mutate_patterns = ["^\\s*raise "]' # the wording of errors
        echo 'pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider"]'
        printf 'pytest_add_cli_args_test_selection = ['
        printf '"%s", ' "${tests[@]}"
        printf ']\nalso_copy = ['
        find . -mindepth 1 -maxdepth 1 ! -name src ! -name mutants -printf '"%f", '
        echo ']'
    } >>pyproject.toml
    local jobs=${JOBS:-$(nproc)}
    if ! "$venv/bin/python" -m mutmut run --max-children "$jobs" >mutation.log 2>&1; then
        tail -c 3000 mutation.log | tr '\r' '\n' >&2
        echo "error: $file: mutmut stopped" >&2
        return 1
    fi
    local results killed survivors
    results=$("$venv/bin/python" -m mutmut results --all true)
    killed=$(grep -cE ': (killed|timeout|segfault|caught by type check)$' <<<"$results" || true)
    survivors=$(sed -nE 's/^ *([^ ]+): (survived|no tests|suspicious)$/\1/p' <<<"$results")
    awk -v file="$file" -v killed="$killed" -v survived="$(grep -c . <<<"$survivors" || true)" \
        'BEGIN { n = killed + survived; printf "%s: %d changes, %d killed (%.0f %%), %d survived\n",
                 file, n, killed, n ? 100 * killed / n : 100, survived }'
    local name
    for name in $survivors; do
        echo "  $name"
        "$venv/bin/python" -m mutmut show "$name" | sed -nE 's/^[-+]($|[^-+])/    &/p'
    done
}

files=("$@")
if [ ${#files[@]} -eq 0 ]; then
    for file in "${default_files[@]}"; do
        [ -e "$file" ] && files+=("$file")
    done
fi
for file in "${files[@]}"; do
    if [ ! -f "$file" ]; then
        echo "error: $file: no such file; paths are relative to $project" >&2
        exit 1
    fi
done
copy=${WORK:-$(mktemp -d)}
[ -n "${WORK:-}" ] || trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read -cT - 2>/dev/null | tar -x -C "$copy"
cp "$copy/pyproject.toml" "$copy/pyproject.toml.original"
export OMP_NUM_THREADS=1 # one process a core; threads do not survive mutmut's fork
for file in "${files[@]}"; do
    (mutate "$file" "$copy")
done
