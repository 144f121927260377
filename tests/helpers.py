"""What several tests use."""

import functools
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import zipfile
from types import SimpleNamespace

import imageio.v3 as iio
import torch
from tqdm import tqdm

from data.image import write_image
from data.pairs import check_pair, summarize_rows
from data.patches import TrainDataset
from data.resize import downsample


def write_set(hr_folder, images, lr_folder=None, scales=()):
    """Write images {name: array} as HR, and their LR images of the scales."""
    hr_folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        write_image(hr_folder / f"{name}.png", image)
        for scale in scales:
            folder = lr_folder / f"X{scale}"
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{name}x{scale}.png", downsample(image, scale))


def train_set_of(pairs, scales, patch_size, **flags):
    """Build the TrainDataset of arrays (HR, LR, name), a list for each scale."""
    args = SimpleNamespace(scale=scales, patch_size=patch_size, n_colors=3, degradation="BI")
    vars(args).update({"seed": 1, "no_augment": False} | flags)
    summaries = [
        summarize_rows([check_pair(hr, lr, scale, (name, name)) for hr, lr, name in triples])
        for scale, triples in zip(scales, pairs, strict=True)
    ]
    return TrainDataset(args, pairs, summaries)


def same_bits(a, b, path=""):
    """Assert that two nested structures are equal, tensors bit by bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same_bits(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b, strict=True)):
            same_bits(*pair, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def refused(result, *words, sr=None):
    """Assert that a program has failed with an error that has these words, and wrote no experiment."""
    status, _, err = result
    assert status != 0
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err, err
    if sr is not None:
        assert not sr.experiments.exists(), "something was written"


def state_of(folder):
    """Load the training state of an experiment folder."""
    return torch.load(folder / "model/state.pt", weights_only=True)


class ForkedProgram(subprocess.Popen):
    """A process that runs main.main(argv), forked from this one, which has torch loaded already.

    This saves the seconds in which a new Python imports the packages. All else is as of Popen.
    """

    def __init__(self, argv, env=(), before=None, **more):
        importlib.import_module("torch._dynamo")  # which an optimizer imports, in each fork anew
        self.start = functools.partial(_run_main, list(map(str, argv)), dict(env), before)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        super().__init__(["main.py"], **pipes | more)

    def _execute_child(self, *args):
        """Fork; the pipes stand at these places from Python 3.10 to 3.14."""
        _, _, out_read, out_write, err_read, err_write = args[10:16]
        self.pid = os.fork()
        if not self.pid:
            for fd in {out_read, err_read} - {-1}:
                os.close(fd)
            for fd, place in ((out_write, 1), (err_write, 2)):
                if fd != -1:
                    os.dup2(fd, place)
            self.start()
        for fd in {out_write, err_write} - {-1}:
            os.close(fd)


def _run_main(argv, env, before):
    """Run main.main(argv) in a forked process; does not return."""
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before:
            before()
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", 1) for fd in (1, 2))
        os.environ.update(env)
        torch.set_num_threads(1)  # the threads of a pool do not survive a fork
        # tqdm's own lock is shared with the parent, which would wait for ever for a killed process
        tqdm.set_lock(threading.RLock())
        status = importlib.import_module("main").main(argv)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def pause_at(step, seconds=60):
    """Give a `before` for ForkedProgram: the run waits in a step for a signal, `seconds` at most."""

    def patch():
        from trainer import Trainer  # which few tests need

        train_step = Trainer.train_step

        def wait_and_train(self, batch, number):
            end = time.monotonic() + seconds
            while number == step and not self.stop.signum and time.monotonic() < end:
                time.sleep(0.01)
            return train_step(self, batch, number)

        Trainer.train_step = wait_and_train

    return patch


def run_two_ranks(argv):
    """Run main.main(argv) as two ranks; return their exit statuses and what they printed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        env = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [ForkedProgram(argv, env | {"RANK": r, "LOCAL_RANK": r}) for r in "01"]
    texts = [rank.communicate(timeout=600) for rank in ranks]
    return [rank.returncode for rank in ranks], texts


def is_whole(folder, full_disk=False):
    """Every file of the experiment can be read: weights and states load, lines of JSON parse.

    A full disk may have cut the last line.
    """
    for path in folder.rglob("*"):
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n") or not full_disk:
                    json.loads(line)
    return True


def png(image):
    """Give the PNG file of an image as bytes."""
    return iio.imwrite("<bytes>", image, extension=".png")


def zip_of(files):
    """Give a zip archive {name: bytes} as bytes; a name may be a ZipInfo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files):
    """Give a tar archive {name: bytes} as bytes; in place of bytes (type, target) for links and devices."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def files_in(folder):
    """List the files under a folder, as paths relative to it."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()
    )


# what benchmark.tar of the tests holds that belongs there
SET5_NAMES = ("baby", "bird", "butterfly", "head", "woman")
SET5 = sorted(
    f"benchmark/Set5/{path}"
    for name in SET5_NAMES
    for path in (f"HR/{name}.png", f"LR_bicubic/X2/{name}x2.png")
)
