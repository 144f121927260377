#!/usr/bin/env python3
"""Time training steps, the forward pass of a test image and the input pipeline.

    scripts/dev/bench.py [--repeats 5] [--table] CASE FLAGS [-- CASE FLAGS]...
        CASE    step      a training step on random patches, without data loading (the default)
                forward   the forward pass of an LR image of --size x --size pixels (128)
                pipeline  training patches from images of 2040x1356
        FLAGS   flags of main.py
    scripts/dev/bench.py step --scale 4 -- step --scale 4 --template PCL_InfoNCE
    scripts/dev/bench.py forward --template NLSN --scale 2 -- pipeline --scale 4 --n_threads 2
    torchrun --nproc_per_node 2 scripts/dev/bench.py step --scale 4     all ranks together

The cases are timed in turn, so that other load affects all of them, with the --threads of the
first. On CUDA, a time is the mean of 10 runs. Each case prints the median of its times; its last
line reads `step 0.71 s`, `forward 0.48 s` or `patches/s 5000`.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages
from runtime.threads import watch_cores

if __name__ == "__main__":
    use_project_packages()  # before imports that need them
    watch_cores()

import numpy as np
import torch

from data import Data
from data.image import write_image
from data.loader import Batch
from main import build_loss
from model import build_network, choose_device
from model.inference import Upscaler
from option import parse_args
from runtime import distributed, launcher
from runtime.files import UserError
from runtime.process import disable_malloc_trim, set_threads
from trainer import Trainer


def build_step(args, device, _extra):
    """Return (function that makes a training step, number of patches, precision)."""
    net = build_network(args).to(device)
    checkpoint = SimpleNamespace(log=lambda line: print(line, file=sys.stderr))
    loss = build_loss(args, net, device, checkpoint.log)
    trainer = Trainer(args, net, loss, SimpleNamespace(tests=[]), checkpoint, device)
    trainer.net.train()
    trainer.model = trainer.wrap_model()
    scale, n_images = args.scale[0], args.batch_size // distributed.world_size()

    def images(side):  # (B, C, H, W) in channels_last, as from the data loader
        shape = (n_images, side, side, args.n_colors)
        return torch.randint(256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)

    lr_side = args.patch_size // scale
    batch = Batch(images(lr_side), images(lr_side * scale), ["image"] * n_images, scale)

    def step():  # neither the first step nor one that is logged
        trainer.train_step(batch, args.print_every + 1)

    return step, args.batch_size, trainer.precision


def build_forward(args, device, extra):
    """Return (function that upscales an image, 1, precision); tests do not follow `auto`."""
    precision = "single" if args.precision == "auto" else args.precision
    upscaler = Upscaler(build_network(args).to(device).eval(), precision=precision)
    lr = torch.rand((1, args.n_colors, extra.size, extra.size), device=device) * args.rgb_range

    def forward():
        with torch.inference_mode():
            upscaler(lr, args.scale[0])

    return forward, 1, precision


def build_pipeline(args, device, extra):
    """Return (function that loads 6,400 patches, their number, "")."""
    folder = tempfile.mkdtemp(dir=extra.folder)
    rng, hr = np.random.default_rng(0), Path(folder, "bench/HR")
    hr.mkdir(parents=True)
    for i in range(24):
        small = rng.integers(0, 256, (113, 170, 3), dtype=np.uint8)
        write_image(hr / f"{i}.bmp", small.repeat(12, 0).repeat(12, 1))
    args.dir_data, args.dir_cache = folder, None
    args.data_train, args.data_test = ["bench"], ["bench"]
    args.test_every = max(1, 6400 // args.batch_size)
    data = Data(args, lambda line: None)
    epochs = iter(range(1, 1000))

    def pipeline():
        for _ in data.epoch(next(epochs), 0, device):
            pass

    return pipeline, args.test_every * args.batch_size, ""


BUILDERS = {"step": build_step, "forward": build_forward, "pipeline": build_pipeline}


def split_cases(words):
    """Split `[CASE] FLAGS -- [CASE] FLAGS` into a list of (kind, flags)."""
    groups = itertools.groupby(words, lambda word: word == "--")
    cases = [list(group) for is_end, group in groups if not is_end]
    return [(w[0], w[1:]) if w[0] in BUILDERS else ("step", w) for w in cases or [["step"]]]


class Case:
    """A case and its times."""

    def __init__(self, kind, flags, extra):  # extra: --size and a temporary folder
        self.kind, self.args, self.seconds = kind, parse_args(flags), []
        self.device = choose_device(self.args.cpu)
        torch.manual_seed(self.args.seed)
        self.run, self.n_images, precision = BUILDERS[kind](self.args, self.device, extra)
        words = [kind, f"{self.args.model} x{self.args.scale[0]}", precision]
        words += [self.args.loss] if kind == "step" else []
        words += ["compiled"] if kind == "step" and self.args.compile else []
        self.title = ", ".join(words) if kind != "pipeline" else kind

    def time(self):
        """Measure once; the device is idle before and after."""
        cudnn = torch.backends.cudnn
        cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.args.tf32
        cudnn.benchmark = self.kind == "step"
        is_cuda = self.device.type == "cuda"
        n_runs = 10 if is_cuda and self.kind != "pipeline" else 1  # the host is ahead of the GPU
        if not self.seconds:  # the first measurement warms up
            self.run()
        t_start = self._now()
        for _ in range(n_runs):
            self.run()
        self.seconds.append((self._now() - t_start) / n_runs)

    def _now(self):
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()
        return time.perf_counter()

    def report(self, first):
        """Return the title and figures of a row, against the first case, and the last line."""
        median = statistics.median(self.seconds)
        unit = "images" if self.kind == "forward" else "patches"
        spread = f"{min(self.seconds):.3g} to {max(self.seconds):.3g} s"
        rate = f"{self.n_images / median:.4g} {unit}/s"
        times = f"{median / statistics.median(first.seconds):.2f} times the first case"
        last = f"{self.kind} {median:.3g} s"
        if self.kind == "pipeline":
            last = f"patches/s {self.n_images / median:.0f}"
        return (self.title, f"{median:.3g} s", spread, rate, times), last


def main(argv=None):
    """Time and print; return the exit status: 1 for bad flags."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    words = list(sys.argv[1:] if argv is None else argv)
    first_end = words.index("--") if "--" in words else len(words)
    options, first = parser.parse_known_args(words[:first_end])
    disable_malloc_trim()
    try:
        launcher.read_environment(words)
        with (
            tempfile.TemporaryDirectory() as options.folder,
            distributed.process_group(choose_device("--cpu" in words)),
        ):
            cases = [Case(*c, options) for c in split_cases([*first, *words[first_end:]])]
            print(set_threads(cases[0].args.threads), file=sys.stderr)
            for _ in range(options.repeats):
                for case in cases:
                    case.time()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not distributed.is_main_process():
        return 0
    if options.table:
        print("| case | median | fastest to slowest | rate | |\n| --- | --- | --- | --- | --- |")
    for case in cases:
        cells, last = case.report(cases[0])
        print(f"| {' | '.join(cells)} |" if options.table else f"{', '.join(cells)}\n{last}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
