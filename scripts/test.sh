#!/usr/bin/env bash
# Installs the packages of the tests into .venv, then runs ruff and pytest, in 3 to 5 minutes.
#     scripts/test.sh           the whole suite
#     scripts/test.sh --slow    the tests that take minutes, too
#     scripts/test.sh -k resume and other flags of pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements.txt requirements-test.txt requirements-test-nodeps.txt
cd "$project"
marks=(-m "not slow")
if [ "${1:-}" = --slow ]; then
    marks=()
    shift
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
# a process for each free core with one thread (the networks of the tests are too small for more)
# and one for the tests that wait for servers, signals and other processes
count='from runtime.threads import *; c = own_cores(); print(choose_threads(None, len(c), [c])[0])'
jobs=$(cd src && env -u OMP_NUM_THREADS -u MKL_NUM_THREADS "$python" -c "$count")
export OMP_NUM_THREADS=1
exec "$python" -m pytest -n "$((jobs + 1))" --dist worksteal ${marks[@]+"${marks[@]}"} "$@"
