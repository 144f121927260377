"""Find a Python that has the packages of requirements.txt, so that no environment is activated.

Only the standard library is imported here, and the code runs on any Python 3.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# import names of requirements.txt, in its order
PACKAGES = "torch numpy imageio skimage tqdm matplotlib PIL scipy tifffile".split()
RESTARTED = "SR_RESTARTED_IN_VENV"  # environment variable of a restarted program


def use_project_packages():
    """Restart with the project's .venv if this Python lacks the packages, or end and say why."""
    is_restarted = os.environ.pop(RESTARTED, None)  # removed: child processes decide again
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        os.environ["MPLBACKEND"] = "Agg"  # that of a notebook may name a missing module
        return
    venv = ROOT / ".venv"
    found = [p for p in (venv / "bin/python", venv / "Scripts/python.exe") if p.is_file()]
    if is_restarted or not found:
        sys.exit(
            f"error: {sys.executable} lacks {', '.join(missing)}: {ROOT / 'scripts/setup.sh'} "
            "makes .venv with the packages, which is used without being activated; or install them "
            f"with: pip install -r {ROOT / 'requirements.txt'}"
        )
    words = getattr(sys, "orig_argv", [sys.executable, *sys.argv])  # Python 3.10 or later has it
    command = [str(found[0]), *words[1:]]
    environment = dict(os.environ, **{RESTARTED: "1"})
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":  # same process: signals and exit status are the program's own
        os.execve(command[0], command, environment)
    # on Windows, exec returns to the shell at once; Ctrl-C reaches both processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(subprocess.call(command, env=environment))
