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

The cases are timed in turn, so that other load affects all of them. On CUDA, a time is the mean of
10 runs. Each case prints the median of its times; its last line reads `step 0.71 s`, `forward 0.48 s`
or `patches/s 5000`.
"""

import argparse
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
from torch.utils.flop_counter import FlopCounterMode

from data import Data
from data.image import write_image
from data.loader import Batch
from main import build_loss
from model import build_network, choose_device
from model.inference import Upscaler
from option import parse_args
from runtime import distributed, launcher
from runtime.files import UserError
from runtime.precision import allow_tf32, tune_convolutions
from runtime.process import disable_malloc_trim, set_threads
from trainer import Trainer

KINDS = ("step", "forward", "pipeline")


def build_step(args, device):
    """Return (function that makes a training step, number of patches, precision)."""
    net = build_network(args).to(device)
    checkpoint = SimpleNamespace(log=lambda line: print(line, file=sys.stderr))
    loss = build_loss(args, net, device, checkpoint.log)
    trainer = Trainer(args, net, loss, SimpleNamespace(tests=[]), checkpoint, device)
    trainer.net.train()
    trainer.model = trainer.wrap_model()
    lr_side, n_images = args.patch_size // args.scale[0], args.batch_size
    n_images //= distributed.world_size()
    lr, hr = (  # (B, C, H, W) in channels_last, as from the data loader
        torch.randint(256, (n_images, side, side, args.n_colors), dtype=torch.uint8, device=device)
        .permute(0, 3, 1, 2)
        for side in (lr_side, lr_side * args.scale[0])
    )  # fmt: skip
    batch = Batch(lr, hr, ["image"] * n_images, args.scale[0])

    def step():  # neither the first step nor one that is logged
        trainer.train_step(batch, args.print_every + 1)

    return step, args.batch_size, trainer.precision


def build_forward(args, device, size):
    """Return (function that upscales an image, 1, precision); tests do not follow `auto`."""
    precision = "single" if args.precision == "auto" else args.precision
    upscaler = Upscaler(build_network(args).to(device).eval(), precision=precision)
    lr = torch.rand((1, args.n_colors, size, size), device=device) * args.rgb_range

    def forward():
        with torch.inference_mode():
            upscaler(lr, args.scale[0])

    return forward, 1, precision


def build_pipeline(args, device, folder):
    """Return (function that loads 6,400 patches, their number, "")."""
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


def synchronize(device):
    """Wait until the device has completed its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def split_cases(words):
    """Split `[CASE] FLAGS -- [CASE] FLAGS` into a list of (kind, flags)."""
    cases = [[]]
    for word in words:
        if word == "--":
            cases.append([])
        else:
            cases[-1].append(word)
    return [
        (case[0], case[1:]) if case[:1] and case[0] in KINDS else ("step", case) for case in cases
    ]


def build(kind, flags, size, folder):
    """Return a case that has run once: SimpleNamespace(run, n, flops, seconds, ...)."""
    args = parse_args(flags)
    device = choose_device(args.cpu)
    torch.manual_seed(args.seed)
    if kind == "pipeline":
        run, n, precision = build_pipeline(args, device, folder)
    elif kind == "forward":
        run, n, precision = build_forward(args, device, size)
    else:
        run, n, precision = build_step(args, device)
    allow_tf32(args.tf32)
    tune_convolutions(kind == "step")
    is_compiled = args.compile and kind == "step"
    flops = 0
    if kind != "pipeline" and not is_compiled:
        with FlopCounterMode(display=False) as counter:
            run()
        flops = counter.get_total_flops()
    n_runs = 10 if device.type == "cuda" and kind != "pipeline" else 1
    for _ in range(n_runs):
        run()
    name = f"{kind}, {args.model} x{args.scale[0]}, {args.loss if kind == 'step' else ''}"
    title = f"{name.rstrip(', ')}, {precision}{', compiled' if is_compiled else ''}".rstrip(", ")
    return SimpleNamespace(kind=kind, title=title, run=run, n=n, flops=flops, n_runs=n_runs,
                           device=device, tf32=args.tf32, seconds=[])  # fmt: skip


def measure(case):
    """Time a case once; the device is idle before and after."""
    allow_tf32(case.tf32)
    tune_convolutions(case.kind == "step")
    synchronize(case.device)
    t_start = time.perf_counter()
    for _ in range(case.n_runs):
        case.run()
    synchronize(case.device)
    case.seconds.append((time.perf_counter() - t_start) / case.n_runs)


def report(case, first, is_table):
    """Yield the lines of a case; `first` is the median of the first one."""
    median, unit = (
        statistics.median(case.seconds),
        "images" if case.kind == "forward" else "patches",
    )
    cells = [case.title, f"{median:.3g} s", f"{min(case.seconds):.3g} to {max(case.seconds):.3g} s"]
    cells += [f"{case.n / median:.4g} {unit}/s", f"{case.flops / median / 1e9:.0f} GFLOP/s"]
    cells.append(f"{median / first:.2f}")
    if is_table:
        yield f"| {' | '.join(cells)} |"
        return
    yield f"{', '.join(cells)} times the first case"
    is_pipeline = case.kind == "pipeline"
    yield f"patches/s {case.n / median:.0f}" if is_pipeline else f"{case.kind} {median:.3g} s"


def main(argv=None):
    """Time and print; return the exit status: 1 for bad flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    words = list(sys.argv[1:] if argv is None else argv)
    first_end = words.index("--") if "--" in words else len(words)
    options, first = parser.parse_known_args(words[:first_end])
    split = split_cases([*first, *words[first_end:]])
    disable_malloc_trim()
    try:
        launcher.read_environment(words)
        with (
            tempfile.TemporaryDirectory() as folder,
            distributed.process_group(choose_device("--cpu" in words)),
        ):
            print(set_threads(None), file=sys.stderr)
            cases = [build(*case, options.size, f"{folder}/{i}") for i, case in enumerate(split)]
            for _ in range(options.repeats):
                for case in cases:
                    measure(case)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not distributed.is_main_process():
        return 0
    if options.table:
        print("| case | median | fastest to slowest | rate | work | times the first |")
        print("| --- | --- | --- | --- | --- | --- |")
    for case in cases:
        print("\n".join(report(case, statistics.median(cases[0].seconds), options.table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
