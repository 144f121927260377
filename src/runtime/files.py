"""Errors that a user can fix, atomic file writes, and the lock of a folder."""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


class UserError(Exception):
    """Bad flags, files, folders or checkpoints, a full disk, a broken network.

    The message names the flag or the file and the fix; main.py prints it without a traceback.
    """


def bullet_list(lines, limit=20):
    """Return lines as an indented list; after `limit` lines, the number of the rest."""
    lines = list(lines)
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  - {line}" for line in lines[:limit] + more)


def print_error(text):
    """Print to stderr; a closed stderr is not a reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            # Python flushes stderr once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@functools.lru_cache
def host_id():
    """Return 8 hexadecimal digits for this machine or container: process ids are unique in it."""
    try:
        pid_namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        pid_namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {pid_namespace}".encode()).hexdigest()[:8]


def is_utf8(path):
    """Return whether a path is UTF-8: on Linux, names are bytes."""
    return not re.search("[\udc80-\udcff]", str(path))


def shorten(name, max_bytes):
    """Return a file name; the end of one that is longer than `max_bytes` becomes a hash of all."""
    # file systems limit a name to 255 bytes, which are 85 characters of Chinese
    encoded = os.fsencode(name)
    if len(encoded) <= max_bytes:
        return name
    start = encoded[: max_bytes - 9].decode("utf-8", "ignore")
    return f"{start}-{hashlib.sha256(encoded).hexdigest()[:8]}"


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path that replaces `path` if the block ends without error."""
    # the name is unique over machines and containers that share a folder
    path = Path(path)
    unique = f"{host_id()}-{os.getpid()}-{secrets.token_hex(4)}"
    partial = path.with_name(f".{shorten(path.name, 120)}.{unique}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def report_write_errors(path):
    """Turn an OSError of the block into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_write(path):
    """Open a temporary file that replaces `path` when the block ends, unless with an error."""
    try:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
        kept = " (the former file is whole)" if path.exists() else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written: {reason}{kept}") from error


def append_text(path, text):
    """Append text to a file."""
    # unbuffered: a buffer would be written once more at the end of the program
    with report_write_errors(path), open(path, "ab", buffering=0) as file:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[file.write(rest) :]


def remove_stale_temp_files(folder):
    """Remove files of `atomic_path` whose process on this host has ended, or that are old."""
    for path in Path(folder).glob(".*.part"):
        match = re.fullmatch(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part", path.name)
        with contextlib.suppress(OSError):  # gone meanwhile, or a file or process of another user
            if match and (
                time.time() - path.stat().st_mtime > 24 * 3600  # perhaps of another host
                or (match[1] == host_id() and not _is_running(int(match[2])))
            ):
                path.unlink(missing_ok=True)


def _is_running(pid):
    if os.name == "nt":  # signal 0 is Ctrl-C there; a temporary file may stay for a day
        return True
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def check_lock(folder):
    """Raise UserError if another process holds the lock of an experiment folder; writes nothing."""
    path = folder / ".lock"
    if path.is_file():
        with open(path, "rb+") as file:
            _lock(file, folder)


def hold_lock(folder):
    """Lock an experiment folder until this process ends; return the file, which must stay open."""
    path = folder / ".lock"
    with report_write_errors(path):
        file = open(path, "ab+", buffering=0)  # noqa: SIM115
        _lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _lock(file, folder):
    if fcntl is None:
        return
    try:
        # lockf, not flock: data loader workers must not inherit the lock
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip()
        raise UserError(
            f"{folder}: another run writes here ({owner}): give another --save, or test its "
            "weights with --pre_train"
        ) from error
    except OSError:
        pass  # a file system without locks
