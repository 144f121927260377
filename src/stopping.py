"""Stopping in order: SIGINT (Ctrl-C) and SIGTERM end a training at the next step, with its state saved."""

import signal
import threading
import time


class Stopped(Exception):
    """Raised where a training may end; the state is saved on the way out."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Remembers SIGINT and SIGTERM for the time of a `with` block, as `signum`; 0 before there is one.

    A second SIGINT interrupts at once. One that follows within a second counts as the first: torchrun passes on to its
    processes what the terminal has already sent to them.
    """

    def __init__(self):
        self.signum, self._since, self._former = 0, 0.0, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._former = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def _remember(self, signum, _frame):
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
        elif signum == signal.SIGINT and now - self._since > 1:
            raise KeyboardInterrupt

    def check(self):
        """Raise Stopped if a signal has come."""
        if self.signum:
            raise Stopped(self.signum)


def ignore_signals(_worker=None):
    """Leave SIGINT and SIGTERM to the main process, in a loader process: it must deliver until the state is saved."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
