"""A lock on a folder, so that two runs do not write into the same experiment."""

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
    """The file `.lock` of a folder, held by the process that writes there, and free when that process has ended."""

    def __init__(self, folder):
        self.folder, self.path, self._file = folder, folder / ".lock", None

    def check(self):
        """Raise UserError if another process holds the lock; leaves no trace."""
        if self.path.is_file():
            with open(self.path, "rb+") as file:
                self._acquire(file)

    def acquire(self):
        """Take the lock until the end of this process.

        Raises:
            UserError: another process holds it.
        """
        with report_write_errors(self.path):
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 (open as long as the run)
            self._acquire(self._file)
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _acquire(self, file):
        if fcntl is None:
            return
        try:
            fcntl.lockf(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # unlike flock not inherited by loader processes
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip()
            raise UserError(
                f"{self.folder}: another run is at work here ({owner}); give another --save, and to test its "
                "weights meanwhile --pre_train"
            ) from error
        except OSError:  # a file system without locks
            with contextlib.suppress(OSError):
                file.seek(0)
