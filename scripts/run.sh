#!/usr/bin/env bash
# Runs src/main.py with the flags given. PYTHON names an interpreter; the default is the project's
# .venv if it exists, else python3.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x "$project/.venv/bin/python" ] && python=$project/.venv/bin/python
exec "$python" "$project/src/main.py" "$@"
