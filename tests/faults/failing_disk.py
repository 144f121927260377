"""Runs of the program whose writes fail at a chosen point, as on a full or a protected disk (see failing_disk.c).

`FailingDisk` compiles the C file and starts this file as a process under LD_PRELOAD that has torch loaded; for each run it
forks, which takes a tenth of the time of a new process.
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Outcome(NamedTuple):
    """Exit status, output and errors of a run, and the operations that it did under the folder: "NAME PATH"."""

    status: int
    out: str
    errors: str
    operations: list


class FailingDisk:
    """Runs programs of the project with faults."""

    def __init__(self, scratch):
        """Compile into the folder `scratch` and start the process."""
        self.scratch = scratch
        library = scratch / "failing_disk.so"
        compiler = ["gcc", "-shared", "-fPIC", "-O1", "-o", library]
        subprocess.run([*compiler, HERE / "failing_disk.c", "-ldl"], check=True)
        env = {"LD_PRELOAD": str(library), "PYTHONPATH": f"{ROOT}/src:{ROOT}/scripts"}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "failing_disk.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )

    def run(self, folder, *argv, program="main", at=0, error=0):
        """Run PROGRAM.main(argv); its operation number `at` (from 1) under the folder fails with `error`, an errno."""
        paths = {name: str(self.scratch / name) for name in ("out", "errors", "trace")}
        job = {"argv": [*map(str, argv)], "program": program, "folder": f"{folder}/"}
        self.server.stdin.write(json.dumps(job | {"at": at, "error": error} | paths) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        out, errors, trace = (
            Path(path).read_text(encoding="utf-8", errors="replace") for path in paths.values()
        )
        return Outcome(status, out, errors, trace.splitlines())

    def close(self):
        """End the process."""
        self.server.stdin.close()
        self.server.wait()


def _child(job):
    """Run a job in a forked process; does not return."""
    status = 70
    try:
        for name, fd in (("out", 1), ("errors", 2)):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        arm = ctypes.CDLL(None).faults_arm
        arm(job["folder"].encode(), ctypes.c_long(job["at"]), job["error"], job["trace"].encode())
        status = importlib.import_module(job["program"]).main(job["argv"])
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve():
    # what the first run would load: an optimizer imports torch._dynamo, a drawing the fonts
    import torch._dynamo
    import torch.utils.tensorboard

    import main  # noqa: F401
    import prepare_data  # noqa: F401
    from checkpoint.plot import plot_panels

    with tempfile.TemporaryDirectory() as folder:
        plot_panels(Path(folder), "first", {"": {"": {1: 1.0}}}, "")
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
