"""Writing files: whole or not at all, and with the name of the file in what goes wrong."""

import contextlib
import os
import re
from pathlib import Path

from runtime.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
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


@contextlib.contextmanager
def report_write_errors(path):
    """Turn an error of writing in a `with` block into an UserError that names the file; the system's own often does not."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_write(path):
    """Open a temporary file that takes the place of `path` when all is written; on an error `path` stays as it was.

    Raises:
        UserError: it cannot be written: disk full, no permission.
    """
    path = Path(path)
    try:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch.save gives RuntimeError for a full disk
        kept = " (the former file is whole)" if path.exists() else ""
        raise UserError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}{kept}"
        ) from error


def append_text(path, text):
    """Add text to the end of a file; what a full disk leaves out is found by `ensure_newline`.

    Raises:
        UserError: see `report_write_errors`.
    """
    with (
        report_write_errors(path),
        open(path, "ab", buffering=0) as file,
    ):  # a buffer would be written again at the end of the program
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[file.write(rest) :]


def ensure_newline(path):
    """End the last line of a file if a crash or a full disk has cut it, so that the next one is a line of its own."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            cut = file.read() != b"\n"
        if cut:
            append_text(path, "\n")


def remove_stale_temp_files(folder):
    """Remove the temporary files of `atomic_path` whose process was killed."""
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
