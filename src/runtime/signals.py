"""Stopping in order: SIGINT (Ctrl-C) and SIGTERM end a training after the step at hand, with its state saved."""

import os
import signal
import socket
import sys
import threading
import time


class Stopped(Exception):
    """Raised where a training may end; the state is saved on the way out."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Remembers SIGINT and SIGTERM for the time of a `with` block, as `signum`; 0 before there is one.

    A second SIGINT ends the process at once. One that follows within a second counts as the first: torchrun passes on to
    its processes what the terminal has already sent to them.
    """

    def __init__(self, name, verbose=True):
        """Keep the name of the experiment for the messages, which are printed if `verbose`."""
        self.name, self.verbose = name, verbose
        self.signum, self._since = 0, 0.0

    def __enter__(self):
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            # A handler of Python's waits until the main thread is done with its step. A thread that reads the numbers of the
            # signals does not.
            self._end, self._start = socket.socketpair()
            self._start.setblocking(False)
            self._former_fd = signal.set_wakeup_fd(self._start.fileno())
            # what is ignored from the start, as SIGINT is in a background job of a script, stays ignored
            heard = [
                s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN
            ]
            self._former = {s: signal.signal(s, lambda *_: None) for s in heard}
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._installed:
            for signum, handler in self._former.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self._former_fd)
            self._start.close()  # ends the thread

    def _listen(self):
        with self._end:
            while numbers := self._end.recv(1):
                if numbers[0] in self._former:
                    self._remember(numbers[0])

    def _remember(self, signum):
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
            self._say(
                f"{signal.Signals(signum).name}: stopping after this step; Ctrl-C again stops at once"
            )
        elif signum == signal.SIGINT and now - self._since > 1:
            self._say(f"interrupted: --load {self.name} goes on from the last state that was saved")
            os._exit(130)

    def _say(self, text):
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    def flag(self):
        """Give a number that tells of the signal; see `signal_of`."""
        return {0: 0, signal.SIGINT: 1, signal.SIGTERM: 2**12}[
            self.signum
        ]  # float32 adds those of 4,000 ranks exactly

    @staticmethod
    def signal_of(flags):
        """Give the signal that the sum of the flags of all ranks tells of, or 0.

        SIGINT wins: torchrun sends SIGTERM to its processes when it gets a SIGINT, which they may not have got yet.
        """
        return signal.SIGINT if flags % 2**12 else signal.SIGTERM if flags else 0

    def raise_if_stopped(self):
        """Raise Stopped if a signal has come."""
        if self.signum:
            raise Stopped(self.signum)


WORKER_GRACE_SECONDS = 30  # seconds


def ignore_signals_in_worker(_worker=None):
    """Leave SIGINT to the main process, in a loader process, and outlive SIGTERM by `WORKER_GRACE_SECONDS`, in which a state is saved."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
