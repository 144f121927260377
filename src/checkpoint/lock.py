"""A lock on a folder: two runs must not write into the same experiment."""

import contextlib
import os
import socket

from runtime.errors import UserError
from runtime.files import report_write_errors

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


class Lock:
    """Lock of an experiment folder, held until the process that writes there ends."""

    def __init__(self, folder):
        self.folder, self.path, self._file = folder, folder / ".lock", None

    def check(self):
        """Raise UserError if another process holds the lock; writes nothing."""
        if self.path.is_file():
            with open(self.path, "rb+") as file:
                self._acquire(file)

    def acquire(self):
        """Hold the lock until the end of this process.

        Raises:
            UserError: another process holds it.
        """
        with report_write_errors(self.path):
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 (open until the end)
            self._acquire(self._file)
            self._file.truncate(0)
            owner = f"process {os.getpid()} on {socket.gethostname()}\n"
            self._file.write(owner.encode())

    def _acquire(self, file):
        if fcntl is None:
            return
        try:
            # lockf, not flock: data loader workers must not inherit the lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip()
            raise UserError(
                f"{self.folder}: another run writes here ({owner}): give another --save, or test "
                "its weights with --pre_train"
            ) from error
        except OSError:  # a file system without locks
            with contextlib.suppress(OSError):
                file.seek(0)
