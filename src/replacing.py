"""Files that appear whole or not at all."""

import contextlib
import os
import re
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Give the path of a temporary file beside `path`, which takes its place when the block ends without an error.

    The temporary name, .NAME.PID.part, tells whose it is; it is removed in any case.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(folder):
    """Remove the temporary files of `replacing` whose process was killed."""
    for path in Path(folder).glob(".*.part"):
        match = re.fullmatch(r"\..+\.(\d+)\.part", path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
