#!/usr/bin/env bash
# Makes the virtual environment .venv and installs the packages of requirements.txt into it.
#     scripts/setup.sh [REQUIREMENTS_FILE...]
# Nothing happens if they are installed. PYTHON names the interpreter to make .venv with, VENV
# another folder than .venv. Other scripts source this file and call its functions.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$project/.venv}

# find_python: set $python to the interpreter of .venv, or return 1
find_python() {
    for python in "$venv/bin/python" "$venv/Scripts/python.exe"; do # the second on Windows
        [ ! -x "$python" ] || return 0
    done
    return 1
}

# find_any_python: set $python to PYTHON, the interpreter of .venv, or python3 or python
find_any_python() {
    python=${PYTHON:-}
    [ -n "$python" ] || find_python || python=$(command -v python3 || command -v python) || {
        echo "error: cannot find Python 3.10 or later: install it, or name one by PYTHON" >&2
        return 1
    }
}

# find_experiments FLAGS...: set $experiments to --dir_experiment, by default the project's folder
find_experiments() {
    local before='' word
    experiments=$project/experiment
    for word in "$@"; do
        [[ $word != --dir_experiment=* ]] || experiments=${word#*=}
        [ "$before" != --dir_experiment ] || experiments=$word
        before=$word
    done
    experiments=${experiments/#"~/"/$HOME/} # as main.py reads it
}

# setup FILE...: install the packages of requirement files, if they changed since the last time;
# set $python to the interpreter of .venv
setup() {
    local stamp version_check file
    stamp=$(cd "$project" && cat "$@" | cksum)
    if ! find_python; then
        find_any_python || return 1
        version_check='import sys; sys.version_info >= (3, 10) or sys.exit(
            "error: Python 3.10 or later is needed, this is " + sys.version)'
        "$python" -c "$version_check" || return 1
        echo "making the virtual environment $venv"
        "$python" -m venv "$venv" || {
            echo "error: cannot make a virtual environment." \
                "On Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        }
        find_python || return 1
    fi
    if ! grep -qsxF "$stamp" "$venv/installed"; then
        echo "installing the packages of $*"
        for file in "$@"; do
            # spandrel asks for a torchvision that replaces torch, and works without it
            case $file in *-nodeps.txt) set -- --no-deps ;; *) set -- ;; esac
            "$python" -m pip install --quiet --disable-pip-version-check "$@" -r "$project/$file" ||
                return 1
        done
        echo "$stamp" >>"$venv/installed"
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    setup "${@:-requirements.txt}"
    echo "installed in $venv"
fi
