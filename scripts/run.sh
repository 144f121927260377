#!/usr/bin/env bash
# Runs src/main.py with the flags given. PYTHON names an interpreter; the default is the project's
# .venv if it exists, else python3.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
find_any_python
exec "$python" "$project/src/main.py" "$@"
