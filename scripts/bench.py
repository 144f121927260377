#!/usr/bin/env python3
"""Time training steps, the forward of a test image and the input pipeline.

    scripts/bench.py [--repeats 5] [--json FILE] CASE FLAGS [-- CASE FLAGS]...
        CASE: step (the default), a training step on random patches, forward, loss, backward and update, without data loading;
              plain, the same work for an L1 loss in a bare loop of PyTorch, the measure of what the step adds;
              forward, a test image of --size x --size LR pixels (128); pipeline, training patches from images of 2040x1356.
        FLAGS: flags of main.py
    scripts/bench.py --scale 4 --cpu                                    an L1 step of EDSR
    scripts/bench.py step --scale 4 -- step --scale 4 --template PCL    beside a PCL-SR step of it, timed in turn
    scripts/bench.py forward --template NLSN --scale 2 -- pipeline --scale 4 --n_threads 2

The cases are timed in turn, so that a disturbance meets all of them. Each prints the median of the seconds, patches or images
per second, GFLOP/s and their share of those of a large matrix product in the same run and number format, the peak memory, and
how many times the first case's time it takes; its last line reads `step 0.71 s`, `forward 0.48 s` or `patches/s 5000`.
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import l1_loss
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
from allocation import keep_freed_memory
from data import Data
from data.batch import Batch
from data.image import write_image
from errors import InputError
from loss import Loss
from model import build_network, choose_device
from model.inference import Upscaler
from optim import build_optimizer
from option import parse_args
from precision import autocast
from trainer import Trainer

KINDS = ("step", "plain", "forward", "pipeline")


def _images(args, device, side):
    pixels = torch.rand(args.batch_size, side, side, args.n_colors, device=device) * 255
    return pixels.to(torch.uint8).permute(0, 3, 1, 2)


class Case:
    """One thing to time: `run()` does it once; `unit` of them, of `count`, are done by it."""

    unit, count = "images", 1

    def close(self):
        """End what runs beside the process."""

    def __init__(self, kind, args, size):
        self.kind, self.args, self.seconds, self.flops = kind, args, [], 0
        self.device, self.precision = choose_device(args.cpu), args.precision
        torch.manual_seed(args.seed)
        getattr(self, f"_prepare_{kind}")(size)

    def _trainer(self):
        net = build_network(self.args).to(self.device)
        loss = Loss(self.args, net).to(self.device)
        checkpoint = SimpleNamespace(log=lambda line: print(line, file=sys.stderr))
        return Trainer(self.args, net, loss, None, checkpoint, self.device)

    def _prepare_step(self, _size):
        args, trainer = self.args, self._trainer()
        self.precision, trainer.forward = trainer.precision, trainer.spread()
        side = args.patch_size // args.scale[0]
        lr, hr = (_images(args, self.device, s) for s in (side, side * args.scale[0]))
        batch = Batch(lr, hr, [], args.scale[0])
        trainer.net.train()
        # a step that is neither the first nor one that is logged
        self.run, self.unit, self.count = lambda: trainer.train_step(batch, args.print_every + 1), "patches", args.batch_size

    def _prepare_plain(self, _size):
        args = self.args
        trainer = self._trainer()  # for its choice of --precision
        net, self.precision = trainer.net, trainer.precision
        optimizer = build_optimizer(args, net.parameters())
        side = args.patch_size // args.scale[0]
        lr, hr = (_images(args, self.device, s).float() for s in (side, side * args.scale[0]))

        def run():
            optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.precision):
                sr = net(lr)
            loss = l1_loss(sr.float(), hr)
            loss.backward()
            optimizer.step()
            loss.item()

        self.run, self.unit, self.count = run, "patches", args.batch_size

    def _prepare_forward(self, size):
        args = self.args
        net = build_network(args).to(self.device).eval()
        self.precision = "single" if args.precision == "auto" else args.precision
        upscaler = Upscaler(net, precision=self.precision)
        lr = torch.rand(1, args.n_colors, size, size, device=self.device) * args.rgb_range

        def run():
            with torch.inference_mode():
                return upscaler(lr, args.scale[0])[0, 0, 0, 0].item()  # waits for an accelerator

        self.run = run

    def _prepare_pipeline(self, _size):
        args = self.args
        self._folder = tempfile.TemporaryDirectory()
        root, rng = Path(self._folder.name), np.random.default_rng(0)
        for number in range(24):
            coarse = rng.integers(0, 256, (113, 170, 3), dtype=np.uint8)
            path = root / f"bench/HR/{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, coarse.repeat(12, 0).repeat(12, 1))
        args.dir_data, args.data_train, args.data_test, args.dir_cache = str(root), ["bench"], ["bench"], None
        args.test_every = max(1, 6400 // args.batch_size)
        data, self._epoch = Data(args, lambda line: None), 0
        self.close = data.close

        def run():
            self._epoch += 1
            for _ in data.epoch(self._epoch, 0, self.device):
                pass

        self.run, self.unit, self.count = run, "patches", args.test_every * args.batch_size

    def warm_up(self):
        """Run once, not timed, and count the floating-point operations."""
        with contextlib.nullcontext() if self.kind == "pipeline" else FlopCounterMode(display=False) as counter:
            self.run()
        self.flops = counter.get_total_flops() if counter else 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def time(self):
        """Run once, timed."""
        began = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - began)

    def result(self, gemm, first):
        """Give the figures; `gemm` are the GFLOP/s of a matrix product, `first` the median seconds of the first case."""
        seconds, args = statistics.median(self.seconds), self.args
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
        rate = self.flops / seconds / 1e9
        return {
            "case": self.kind, "model": args.model, "scale": args.scale[0], "loss": args.loss, "batch_size": args.batch_size,
            "patch_size": args.patch_size, "precision": self.precision, "seconds": seconds, "fastest": min(self.seconds),
            "slowest": max(self.seconds), "unit": f"{self.unit}/s", "rate": self.count / seconds, "gflops": rate,
            "share_of_gemm": rate / gemm if gemm else None, "peak_memory_gib": memory / 2**30, "times_first": seconds / first,
        }  # fmt: skip


def gemm_rate(device, precision):
    """Measure the GFLOP/s of a matrix product that takes 0.1 s or more: a rate that is kept up, unlike that of a burst."""
    dtype = {"half": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    size, seconds = 512, [0.0]
    while statistics.median(seconds) < 0.1 and size < 32768:
        size, seconds = 2 * size, []
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(5):
            began = time.perf_counter()
            (a @ b)[0, 0].item()
            seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def describe(result):
    """Give the lines that are printed for a case."""
    work = f"{result['loss']}, batch {result['batch_size']}, patch {result['patch_size']}"
    work = {"forward": "one image", "pipeline": work.partition(", ")[2]}.get(result["case"], work)
    yield f"{result['case']}: {result['model']} x{result['scale']}, {work}, {result['precision']}"
    spread = f"{result['fastest']:.3f} to {result['slowest']:.3f} s, {result['times_first']:.2f} times the first case"
    yield f"  {result['rate']:.1f} {result['unit']}, {spread}, peak memory {result['peak_memory_gib']:.2f} GiB"
    if result["gflops"]:
        yield f"  {result['gflops']:.0f} GFLOP/s, {result['share_of_gemm']:.0%} of the matrix product's"
    rate = f"patches/s {result['rate']:.0f}"
    yield rate if result["case"] == "pipeline" else f"{result['case']} {result['seconds']:.3g} s"


def split_cases(words):
    """Split [CASE] FLAGS -- [CASE] FLAGS into (case, flags) pairs."""
    cases, part = [], []
    for word in [*words, "--"]:
        if word != "--":
            part.append(word)
            continue
        kind = part.pop(0) if part and part[0] in KINDS else "step"
        cases.append((kind, part))
        part = []
    return cases


def main(argv=None):
    """Time and print; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each case (default: 5)")
    parser.add_argument("--size", type=int, default=128, help="side of the LR image of `forward` (default: 128)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    own, first = parser.parse_known_args(words[:cut])
    keep_freed_memory()
    try:
        cases = [Case(kind, parse_args(flags), own.size) for kind, flags in split_cases([*first, *words[cut:]])]
        for case in cases:
            case.warm_up()
        for _ in range(own.repeats):
            for case in cases:
                case.time()
        for case in cases:
            case.close()
        timed = {(case.device, case.precision) for case in cases if case.flops}
        rates = {key: gemm_rate(*key) for key in timed}
        base = statistics.median(cases[0].seconds)
        results = [case.result(rates.get((case.device, case.precision)), base) for case in cases]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for (_, precision), rate in rates.items():
        print(f"matrix product, {precision}: {rate:.0f} GFLOP/s")
    for result in results:
        print("\n".join(describe(result)))
    if own.json:
        own.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
