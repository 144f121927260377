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
        self.where = [
            "--dir_data",
            mine,
            "--dir_cache",
            folder / "cache",
            "--dir_experiment",
            folder / "experiment",
        ]

    def run(self, *argv, at=0, error=0):
        return self.disk.run(self.folder, *argv, program=self.program, at=at, error=error)

    def start(self):
        """Put the folder into the state before the run, and give its flags."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def points(self, every):
        """Give the numbers of the first and the last operation of each kind on each file, or some of them."""
        seen = {}
        for number, line in enumerate(self.run(*self.flags()).operations, 1):
            name = re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.part|tfevents\S+", ".part", line)
            seen.setdefault(name, [number, number])[1] = number
        points = sorted({number for pair in seen.values() for number in pair})
        return points if every else points[:: len(points) // 6]


class Training(Job):
    def flags(self):
        self.start()
        return self.train_flags()

    def train_flags(self):
        return [*SMALL.split(), "--epochs", self.epochs, *ALL_FILES.split(), *self.where]

    def judge(self, whole):
        """After the fault: what is there is whole, and the run goes on, or starts anew, to the bits of the undisturbed one."""
        experiment = self.folder / "experiment/run"
        flags = ["--load", "run", *self.where, "--cpu"]
        if experiment.exists():
            assert is_whole(experiment, full_disk=True)
        if not (experiment / "model/state.pt").exists():
            flags = self.train_flags()
        after = self.run(*flags)
        assert after.status == 0, after.errors
        same_bits(state_of(experiment), whole)


class Upscaling(Job):
    def flags(self):
        self.start()
        shutil.copytree(self.mine / "Mine/HR", self.folder / "in")
        return [*"--model Bicubic --scale 2 --data_test Demo --test_only --cpu --dir_demo".split(), self.folder / "in",
                "--dir_out", self.folder / "out", *self.where]  # fmt: skip

    def judge(self, whole):
        done = files_in(self.folder / "out") if (self.folder / "out").exists() else []
        assert set(done) <= {"chelsea.png", "coffee.png"}
        for name in done:
            assert (self.folder / "out" / name).read_bytes() == whole[name]


class Preparing(Job):
    program = "prepare_data"

    def flags(self):
        self.start()
        return [
            "folder",
            self.mine / "Mine/HR",
            *"New --scale 2 --dir_data".split(),
            self.folder / "data",
            "--jobs",
            "1",
        ]

    def judge(self, whole):
        root = self.folder / "data/New"
        for name in files_in(root) if root.exists() else []:
            assert (root / name).read_bytes() == whole[name]
        again = [
            "folder",
            self.mine / "Mine/HR",
            *"New --scale 2 --dir_data".split(),
            self.folder / "data",
            "--jobs",
            "1",
        ]
        assert self.run(*again).status == 0
        assert {name: (root / name).read_bytes() for name in files_in(root)} == whole


def result(job):
    """What the undisturbed run has left."""
    assert job.run(*job.flags()).status == 0
    if isinstance(job, Training):
        return state_of(job.folder / "experiment/run")
    root = job.folder / ("out" if isinstance(job, Upscaling) else "data/New")
    return {name: (root / name).read_bytes() for name in files_in(root)}


ERRORS = {
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO,),
    "mkdir": (errno.EACCES, errno.ENOSPC),
    "open": (errno.EACCES, errno.EROFS),
    "rename": (errno.EACCES, errno.ENOSPC),
}


def inject(job, every):
    """Let each of the points fail once for each of the errors that its operation may have; give their number."""
    whole, points, count = result(job), job.points(every), 0
    operations = job.run(*job.flags()).operations
    for at in points:
        name, path = operations[at - 1].split(" ", 1)
        for error in ERRORS[name][: None if every else 1]:
            outcome = job.run(*job.flags(), at=at, error=error)
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


@pytest.mark.parametrize("kind", [Training, Upscaling, Preparing])
def test_some_failing_writes(disk, mine, tmp_path, kind, counted):
    count = inject(kind(disk, tmp_path / "disk", mine, epochs=1), every=False)
    assert count >= 6
    counted(f"{kind.__name__}, some operations that write: {count} faults, nothing lost")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Training, Upscaling, Preparing])
def test_every_failing_write(disk, mine, tmp_path, kind, counted):
    count = inject(kind(disk, tmp_path / "disk", mine, epochs=2), every=True)
    counted(f"{kind.__name__}, all operations that write: {count} faults, nothing lost")
