# Sourced by the other scripts: makes the virtual environment .venv and installs the packages of the requirement files
# named as arguments, when they have changed since the last time. PYTHON names the interpreter to make it with.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$project/.venv}

setup() {
    local stamp
    stamp=$(cd "$project" && cat "$@" | cksum)
    if [ ! -x "$venv/bin/python" ]; then
        "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.10 or later is needed, this is " + sys.version if sys.version_info < (3, 10) else 0)'
        echo "making the virtual environment $venv"
        "${PYTHON:-python3}" -m venv "$venv" || {
            echo "error: no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        }
    fi
    if ! grep -qsxF "$stamp" "$venv/installed"; then
        echo "installing the packages of $*"
        local file
        for file in "$@"; do
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$project/$file" || return 1
        done
        echo "$stamp" >>"$venv/installed"
    fi
}
