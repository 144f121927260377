"""A full or protected disk, at every operation that writes: a message that names the file, and nothing lost.

`scripts/test.sh --slow tests/faults/test_failing_disk.py` tries each of them; the fast suite some.
"""

import errno
import os
import re
import shutil
import sys

import pytest
from failing_disk import FailingDisk

from helpers import files_in, is_whole, same_bits, state_of, write_set

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("gcc"),
    reason="needs Linux and gcc, which compiles the faults",
)

SMALL = "--model EDSR --n_resblocks 1 --n_feats 8 --scale 2 --patch_size 32 --batch_size 2 --test_every 2 --data_train Mine "
SMALL += "--data_test Mine --n_threads 0 --print_every 1 --cpu --precision single --save run"
ALL_FILES = "--save_models --use_ema --save_results --save_gt --tensorboard"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    running = FailingDisk(tmp_path_factory.mktemp("faults"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def mine(tmp_path_factory, photographs):
    root = tmp_path_factory.mktemp("datasets")
    write_set(root / "Mine/HR", {name: photographs[name] for name in ("chelsea", "coffee")})
    return root


class Job:
    """A program, the folder that it writes to, and how its result is judged."""

    program = "main"

    def __init__(self, disk, folder, mine, epochs):
        self.disk, self.folder, self.mine, self.epochs = disk, folder, mine, epochs
        self.where = ["--dir_data", mine, "--dir_cache", folder / "cache"]
        self.where += ["--dir_experiment", folder / "experiment"]

    def run(self, *argv, at=0, error=0):
        return self.disk.run(self.folder, *argv, program=self.program, at=at, error=error)

    def start(self, at=0, error=0):
        """Run in an empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.run(*self.flags(), at=at, error=error)

    def written(self):
        """Give what the run has left, by name."""
        names = files_in(self.root) if self.root.exists() else []
        return {name: (self.root / name).read_bytes() for name in names}

    def judge(self, whole):
        """What is there after the fault is whole."""
        assert self.written().items() <= whole.items()


class Training(Job):
    def flags(self):
        return [*SMALL.split(), "--epochs", self.epochs, *ALL_FILES.split(), *self.where]

    def written(self):
        return state_of(self.folder / "experiment/run")

    def judge(self, whole):
        """The run goes on, or starts anew, to the bits of the undisturbed one."""
        experiment = self.folder / "experiment/run"
        assert is_whole(experiment, full_disk=True)
        has_state = (experiment / "model/state.pt").exists()
        flags = ["--load", "run", *self.where, "--cpu"] if has_state else self.flags()
        after = self.run(*flags)
        assert after.status == 0, after.errors
        same_bits(self.written(), whole)


class Upscaling(Job):
    def flags(self):
        self.root = self.folder / "out"
        shutil.copytree(self.mine / "Mine/HR", self.folder / "in")
        flags = "--model Bicubic --scale 2 --data_test Demo --test_only --cpu".split()
        return [*flags, "--dir_demo", self.folder / "in", "--dir_out", self.root, *self.where]


class Preparing(Job):
    program = "prepare_data"

    def flags(self):
        self.root = self.folder / "data/New"
        flags = ["--scale", 2, "--dir_data", self.folder / "data", "--jobs", 1]
        return ["folder", self.mine / "Mine/HR", "New", *flags]

    def judge(self, whole):
        super().judge(whole)
        assert self.run(*self.flags()).status == 0
        assert self.written() == whole


ERRORS = {
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO,),
    "mkdir": (errno.EACCES, errno.ENOSPC),
    "open": (errno.EACCES, errno.EROFS),
    "rename": (errno.EACCES, errno.ENOSPC),
}


def points(operations, every):
    """Give the numbers of the first and the last operation of each kind on each file, or some of them."""
    seen = {}
    for number, line in enumerate(operations, 1):
        name = re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.part|tfevents\S+", ".part", line)
        seen.setdefault(name, [number, number])[1] = number
    numbers = sorted({number for pair in seen.values() for number in pair})
    return numbers if every else numbers[:: len(numbers) // 6]


def inject(job, every):
    """Let each of the points fail once for each of the errors that its operation may have; give their number."""
    undisturbed, count = job.start(), 0
    assert undisturbed.status == 0, undisturbed.errors
    whole = job.written()
    for at in points(undisturbed.operations, every):
        name, path = undisturbed.operations[at - 1].split(" ", 1)
        for error in ERRORS[name][: None if every else 1]:
            outcome = job.start(at=at, error=error)
            case = f"{os.strerror(error)} in {name} of {path}: {outcome.errors}"
            assert "Traceback" not in outcome.errors + outcome.out, case
            if "/.pairs_" in path:  # which pairs have been checked; without it they are again
                assert outcome.status == 0, case
                continue
            assert outcome.status == 1, case
            assert outcome.errors.startswith("error: "), case
            assert "Exception ignored" not in outcome.errors, case
            assert os.strerror(error) in outcome.errors, case
            assert str(job.folder) in outcome.errors, case
            assert not list(job.folder.rglob("*.part")), case
            job.judge(whole)
            count += 1
    return count


@pytest.mark.parametrize(
    ("every", "epochs"), [(False, 1), pytest.param(True, 2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", [Training, Upscaling, Preparing])
def test_failing_writes(disk, mine, tmp_path, kind, every, epochs, counted):
    count = inject(kind(disk, tmp_path / "disk", mine, epochs), every)
    assert count >= 6
    counted(
        f"{kind.__name__}, {'all' if every else 'some'} operations that write: {count} faults, nothing lost"
    )
