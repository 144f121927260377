"""Writing files: whole or not at all, and with the name of the file in what goes wrong."""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

from runtime.errors import UserError


@functools.lru_cache
def host_id():
    """Return 8 hexadecimal digits for this machine, or for this container: process ids are unique only within it."""
    try:
        pid_namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        pid_namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {pid_namespace}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path` and move it there at the end of the block.

    The name of the temporary file is .NAME.HOST-PID-RANDOM.part, so that machines and containers that share a
    folder never write into each other's files. It is removed after an error.
    """
    path = Path(path)
    unique = f"{host_id()}-{os.getpid()}-{secrets.token_hex(4)}"
    partial = path.with_name(f".{path.name}.{unique}.part")
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
    """Remove temporary files of `atomic_path` whose process, on this machine, was killed."""
    for path in Path(folder).glob(".*.part"):
        match = re.fullmatch(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part", path.name)
        if match and match[1] == host_id() and not _is_running(int(match[2])):
            path.unlink(missing_ok=True)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
