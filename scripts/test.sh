#!/usr/bin/env bash
# Installs the packages of the tests into .venv, then runs ruff and pytest (4 minutes on 2 cores).
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
# a process per core with one thread each: the networks of the tests are too small for more
export OMP_NUM_THREADS=1
exec "$python" -m pytest -n auto ${marks[@]+"${marks[@]}"} "$@"
