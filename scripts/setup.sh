#!/usr/bin/env bash
# Makes the virtual environment .venv and installs the packages of requirements.txt into it.
#     scripts/setup.sh [REQUIREMENTS_FILE...]
# Nothing happens if they are installed. PYTHON names the interpreter to make .venv with, VENV
# another folder than .venv. Other scripts source this file and call `setup`.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$project/.venv}

# setup FILE...: install the packages of requirement files, if they changed since the last time
setup() {
    local stamp version_check
    stamp=$(cd "$project" && cat "$@" | cksum)
    if [ ! -x "$venv/bin/python" ]; then
        version_check='import sys; sys.version_info >= (3, 10) or sys.exit(
            "error: Python 3.10 or later is needed, this is " + sys.version)'
        "${PYTHON:-python3}" -c "$version_check" || return 1
        echo "making the virtual environment $venv"
        "${PYTHON:-python3}" -m venv "$venv" || {
            echo "error: cannot make a virtual environment." \
                "On Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        }
    fi
    if ! grep -qsxF "$stamp" "$venv/installed"; then
        echo "installing the packages of $*"
        local file pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
        for file in "$@"; do
            "${pip[@]}" -r "$project/$file" || return 1
        done
        echo "$stamp" >>"$venv/installed"
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    setup "${@:-requirements.txt}"
    echo "installed in $venv"
fi
