"""Checking a property of bad input on many generated examples, and counting how they went."""

import contextlib
import resource
import shutil
import traceback
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings

from helpers import files_in

MORE_MEMORY = 2 * 2**30  # bytes that an example may take above what the process has


class Tally:
    """Counts the examples of a property: refused with exit status 1 or 2, used, or what broke it."""

    def __init__(self, kind, counted):
        self.kind, self.counted = kind, counted
        self.tried = self.refused = self.used = self.tracebacks = self.half_written = 0

    def __str__(self):
        ends = f"{self.refused} refused, {self.used} used"
        return f"{self.kind}: {self.tried} tried, {ends}, {self.tracebacks} tracebacks, {self.half_written} half-written"

    def run(self, program, names, roots):
        """Run program(), which gives (status, output, errors), and check what holds for each example.

        One of `names` must be in the message if it is refused; nothing half-written may be left under
        the folders `roots`.
        """
        self.tried += 1
        try:
            status, out, err = program()
            assert "Traceback" not in err, err
        except Exception:
            self.tracebacks += 1
            raise
        self.refused, self.used = self.refused + (status != 0), self.used + (status == 0)
        assert status in (0, 1, 2), (status, err)
        if status:
            assert "error: " in err, err
            assert any(str(name) in err for name in names), (err, names)
        broken = [path for root in roots for path in half_written(root)]
        self.half_written += bool(broken)
        assert not broken, broken
        return status, out, err


def _is_whole(path):
    try:
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png":
            iio.imread(path)
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
    except Exception:
        return False
    return path.suffix != ".part"


def half_written(root):
    """List the files under a folder that the program has written, and not to the end."""
    return [path for path in Path(root).rglob("*") if path.is_file() and not _is_whole(path)]


def contents(folder):
    """Give the bytes of all files under a folder, without the log and the lock, which a refused run may write."""
    names = [name for name in files_in(folder) if name not in ("log.txt", ".lock")]
    return {name: (folder / name).read_bytes() for name in names}


class Content(bytes):
    """The bytes of a file, which a message shows the number of."""

    def __repr__(self):
        return f"<{len(self)} bytes>"


def for_all(tally, strategy, check, examples, also=()):
    """Call check(example) for those of `also` and for examples of a strategy, the same ones in each run.

    All examples are tried, whatever fails; then each failure that has a place of its own is told.
    """
    failures = {}

    same = {"derandomize": True, "deadline": None, "database": None, "phases": [Phase.generate]}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **same)
    @given(strategy)
    def run(example):
        attempt(example)

    def attempt(example):
        try:
            check(example)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = type(error), place.filename, place.lineno, str(error)[:60]
            failures.setdefault(key, (example, error))

    for example in also:
        attempt(example)
    run()
    told = [
        "".join(traceback.format_exception(error)[-6:])[:3000] + f"for {example!r:.600}"
        for example, error in failures.values()
    ]
    assert not told, f"{tally}; {len(told)} kinds of failures:\n\n" + "\n\n".join(told)
    tally.counted(tally)


@contextlib.contextmanager
def little_memory():
    """Let allocations fail that take the process far beyond its size; Linux alone counts it in /proc."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = int(statm.read_text().split()[0]) * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def fresh(folder):
    """Give an empty folder, removed at the end."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
