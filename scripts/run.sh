#!/usr/bin/env bash
# Runs src/main.py with the flags given, with the project's .venv if there is one, else with $PYTHON or python3.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x "$project/.venv/bin/python" ] && python=$project/.venv/bin/python
exec "$python" "$project/src/main.py" "$@"
