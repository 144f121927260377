"""Stopping on a signal: a training ends after the current step, with its state saved."""

import contextlib
import os
import signal
import socket
import threading
import time

from runtime import distributed
from runtime.errors import print_error

# In rising priority. Clusters send SIGUSR1 or SIGUSR2 before a time limit; a closed terminal
# sends SIGHUP. SIGINT is last: torchrun sends SIGTERM to its processes when it gets a SIGINT.
STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGUSR2", "SIGUSR1", "SIGHUP", "SIGTERM", "SIGINT")
    if hasattr(signal, name)
]
WORKER_GRACE_SECONDS = 30


class Stopped(Exception):
    """Raised at a point where a training may end; the caller saves the state."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StoppedOutside(Stopped):
    """Raised outside of a training: no state must be saved."""


@contextlib.contextmanager
def raise_on_signals():
    """Raise StoppedOutside in a `with` block when a stop signal comes.

    SIGINT already raises KeyboardInterrupt in Python.
    """

    def stop(signum, _frame):
        raise StoppedOutside(signum)

    former = {}
    if threading.current_thread() is threading.main_thread():
        heard = [s for s in STOP_SIGNALS if signal.getsignal(s) == signal.SIG_DFL]
        former = {signum: signal.signal(signum, stop) for signum in heard}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


class StopRequest:
    """Remembers a stop signal during a `with` block, as `signum`; 0 before there is one.

    A second SIGINT ends the process at once. One that follows within a second counts as the first:
    torchrun forwards a signal to its processes that the terminal has already sent to them.
    """

    def __init__(self, name, verbose=True):
        """Keep the name of the experiment for the messages, which are printed if `verbose`."""
        self.name, self.verbose = name, verbose
        self.signum, self._since = 0, 0.0

    def __enter__(self):
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            # A Python handler waits until the main thread has finished its operation. A thread that
            # reads the signal numbers from a socket does not.
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._former_fd = signal.set_wakeup_fd(self._writer.fileno())
            # a signal that is ignored from the start stays ignored: SIGINT in a background job of a
            # script, SIGHUP under nohup
            heard = [s for s in STOP_SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
            self._former = {s: signal.signal(s, lambda *_: None) for s in heard}
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._installed:
            for signum, handler in self._former.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self._former_fd)
            self._writer.close()  # ends the thread

    def _listen(self):
        with self._reader:
            while received := self._reader.recv(1):
                if received[0] in self._former:
                    self._on_signal(received[0])

    def _on_signal(self, signum):
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
            name = signal.Signals(signum).name
            self._print(f"{name}: stopping after this step; Ctrl-C again stops at once")
        elif signum == signal.SIGINT and now - self._since > 1:
            self._print(f"interrupted: --load {self.name} continues from the last saved state")
            os._exit(130)

    def _print(self, text):
        if self.verbose:
            print_error(text)

    def request(self, signum=signal.SIGTERM):
        """Ask to stop as if a signal had come."""
        self.signum = self.signum or signum

    def flags(self):
        """Return a number for each of `STOP_SIGNALS`: 1.0 if it has come, else 0.0."""
        return [float(s == self.signum) for s in STOP_SIGNALS]

    def agree(self, sums):
        """Return the signal that any rank has received, or 0; equal on all ranks.

        Args:
            sums: `flags`, summed over all ranks; not used with a single rank.
        """
        if distributed.world_size() == 1:
            return self.signum
        received = [s for s, count in zip(STOP_SIGNALS, sums, strict=True) if count]
        return received[-1] if received else 0

    def raise_if_stopped(self):
        """Raise Stopped if a signal has come."""
        if self.signum:
            raise Stopped(self.signum)


def ignore_signals_in_worker(_worker=None):
    """Leave signals to the main process in a data loader worker.

    SIGINT, SIGHUP and SIGUSR are ignored. SIGTERM ends the worker after a delay in which the main
    process saves its state.
    """
    signal.set_wakeup_fd(-1)
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))


class WorkerErrors:
    """Allow torch to report dead data loader workers in a `with` block only.

    torch's handler of SIGCHLD raises at any line of the main thread: in the middle of a step, where
    the training state must not be saved. It is needed while a batch is awaited: a worker that was
    killed while it sent one leaves the main process waiting for the rest.
    """

    def __init__(self):
        self._handler = None  # torch sets it when it starts workers

    def __enter__(self):
        if self._handler:
            self.restore()
            self._handler(signal.SIGCHLD, None)  # raises if a worker has died since the last block

    def __exit__(self, *_):
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
            self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def restore(self):
        """Install torch's handler again."""
        if self._handler:
            signal.signal(signal.SIGCHLD, self._handler)
