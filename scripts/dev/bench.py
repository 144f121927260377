#!/usr/bin/env python3
"""Time training steps, the forward of a test image and the input pipeline.

    scripts/dev/bench.py [--repeats 5] [--json FILE] [--table] CASE FLAGS [-- CASE FLAGS]...
        CASE: step (the default), a training step on random patches, forward, loss, backward and update, without data loading;
              plain, the same work for an L1 loss in a bare loop of PyTorch, the measure of what the step adds;
              forward, a test image of --size x --size LR pixels (128); pipeline, training patches from images of 2040x1356.
        FLAGS: flags of main.py; for `plain` also --without channels_last, fused or kept_memory, to see what each is worth (the
              last in a call of its own: what one case leaves of the memory is there for the next). --compile is for `step`
    scripts/dev/bench.py --scale 4 --cpu                                    an L1 step of EDSR
    scripts/dev/bench.py step --scale 4 -- step --scale 4 --template PCL    beside a PCL-SR step of it, timed in turn
    scripts/dev/bench.py forward --template NLSN --scale 2 -- pipeline --scale 4 --n_threads 2
    scripts/dev/bench.py plain --scale 4 -- plain --scale 4 --without fused

The cases are timed in turn, so that a disturbance meets all of them. Each prints the median of the seconds, patches or images
per second, GFLOP/s and their shares of those of a large matrix product and of a 3x3 convolution in the same run and number
format, the peak memory, and how many times the first case's time it takes; its last line reads `step 0.71 s`,
`forward 0.48 s` or `patches/s 5000`.
"""

import argparse
import contextlib
import itertools
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
from torch.nn.functional import conv2d, l1_loss
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from data import Data
from data.image import write_image
from data.loader import Batch
from loss import Loss
from model import build_network, choose_device, count_parameters
from model.inference import Upscaler
from optim import build_optimizer
from option import parse_args
from runtime.errors import UserError
from runtime.memory import disable_malloc_trim, restore_malloc_defaults
from runtime.precision import allow_tf32, autocast
from trainer import Trainer

GAN_TYPES = ("step", "plain", "forward", "pipeline")
WITHOUT = ("channels_last", "fused", "kept_memory")


def _images(args, device, side):
    pixels = torch.rand(args.batch_size, side, side, args.n_colors, device=device) * 255
    return pixels.to(torch.uint8).permute(0, 3, 1, 2)


class Case:
    """One thing to time: `run()` does it once; `unit` of them, of `count`, are done by it."""

    unit, count, parameters, memory = "images", 1, 0, 0

    def close(self):
        """End what runs beside the process."""

    def __init__(self, kind, args, size, without=None):
        self.kind, self.args, self.seconds, self.flops, self.without = kind, args, [], 0, without
        self.device, self.precision = choose_device(args.cpu), args.precision
        torch.manual_seed(args.seed)
        getattr(self, f"_prepare_{kind}")(size)
        tf32 = self.device.type == "cuda" and self.precision == "single" and args.tf32
        half = self.device.type == "cpu" and self.precision == "half"
        self.format = (
            "tf32" if tf32 else "bf16" if half else self.precision
        )  # of products and convolutions

    def _network(self):
        net = build_network(self.args).to(self.device)
        self.parameters = count_parameters(net)
        return net

    def _trainer(self):
        net = self._network()
        loss = Loss(self.args, net).to(self.device)
        checkpoint = SimpleNamespace(log=lambda line: print(line, file=sys.stderr))
        return Trainer(self.args, net, loss, None, checkpoint, self.device)

    def _prepare_step(self, _size):
        args, trainer = self.args, self._trainer()
        self.precision = trainer.precision
        self.spread = lambda: setattr(
            trainer, "model", trainer.wrap_model()
        )  # compiled, with --compile
        side = args.patch_size // args.scale[0]
        lr, hr = (_images(args, self.device, s) for s in (side, side * args.scale[0]))
        batch = Batch(lr, hr, [], args.scale[0])
        trainer.net.train()
        # a step that is neither the first nor one that is logged
        self.run, self.unit, self.count = (
            lambda: trainer.train_step(batch, args.print_every + 1),
            "patches",
            args.batch_size,
        )

    def _prepare_plain(self, _size):
        args = self.args
        trainer = self._trainer()  # for its choice of --precision
        net, self.precision = trainer.net, trainer.precision
        optimizer = build_optimizer(args, net.parameters())
        if self.without == "fused":
            optimizer.param_groups[0]["fused"] = None  # torch chooses among the others
        side = args.patch_size // args.scale[0]
        lr, hr = (_images(args, self.device, s).float() for s in (side, side * args.scale[0]))
        if self.without == "channels_last":
            lr, hr, net = (
                lr.contiguous(),
                hr.contiguous(),
                net.to(memory_format=torch.contiguous_format),
            )

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
        net = self._network().eval()
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
        args.dir_data, args.data_train, args.data_test, args.dir_cache = (
            str(root),
            ["bench"],
            ["bench"],
            None,
        )
        args.test_every = max(1, 6400 // args.batch_size)
        data, self._epoch = Data(args, lambda line: None), 0
        self.close = data.close

        def run():
            self._epoch += 1
            for _ in data.epoch(self._epoch, 0, self.device):
                pass

        self.run, self.unit, self.count = run, "patches", args.test_every * args.batch_size

    def spread(self):
        """Put the network into the form in which it is timed; its operations are counted in the plain form."""

    def warm_up(self):
        """Run, not timed, and count the floating-point operations."""
        allow_tf32(self.args.tf32)
        with (
            contextlib.nullcontext()
            if self.kind == "pipeline"
            else FlopCounterMode(display=False) as counter
        ):
            self.run()
        self.flops = counter.get_total_flops() if counter else 0
        self.spread()
        if self.args.compile:
            self.run()

    def time(self):
        """Run once, timed."""
        allow_tf32(self.args.tf32)
        restore_malloc_defaults() if self.without == "kept_memory" else disable_malloc_trim()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        self.run()
        self.seconds.append(time.perf_counter() - began)
        if self.device.type == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_allocated(self.device))

    def result(self, rates, first):
        """Give the figures; `rates` are the GFLOP/s of `measure_rates`, `first` the median seconds of the first case."""
        seconds, args = statistics.median(self.seconds), self.args
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        memory = self.memory or process
        rate = self.flops / seconds / 1e9
        return {
            "case": self.kind, "model": args.model, "parameters": self.parameters, "scale": args.scale[0], "loss": args.loss,
            "batch_size": args.batch_size, "patch_size": args.patch_size, "workers": args.n_threads, "format": self.format,
            "compiled": args.compile and self.kind == "step", "without": self.without, "seconds": seconds,
            "fastest": min(self.seconds), "slowest": max(self.seconds), "unit": f"{self.unit}/s", "rate": self.count / seconds,
            "gflops": rate,
            **{f"share_of_{name}": rate / most for name, most in rates.items()},
            "peak_memory_gib": memory / 2**30, "times_first": seconds / first,
        }  # fmt: skip


def _rate(run, flops):
    """Give the GFLOP/s of `run`, done so often that it takes 0.1 s: a rate that is kept up, unlike that of a burst."""
    times, seconds = 1, []
    while len(seconds) < 5:
        began = time.perf_counter()
        for _ in range(times):
            result = run()
        result[(0,) * result.dim()].item()  # waits for an accelerator
        seconds.append(time.perf_counter() - began)
        if seconds[-1] < 0.1:
            times, seconds = 2 * times, []
    return flops * times / statistics.median(seconds) / 1e9


def measure_rates(device, number_format):
    """Measure the GFLOP/s of a large matrix product and a 3x3 convolution of 256 channels in single, tf32, half or bf16."""
    dtype = {"half": torch.float16, "bf16": torch.bfloat16}.get(number_format, torch.float32)
    allow_tf32(number_format == "tf32")
    size, images = (8192, 256) if device.type == "cuda" else (2048, 16)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x, kernel = (
        torch.randn(images, 256, 48, 48, device=device),
        torch.randn(256, 256, 3, 3, device=device),
    )
    x, kernel = (t.to(dtype, memory_format=torch.channels_last) for t in (x, kernel))
    convolution = _rate(lambda: conv2d(x, kernel, padding=1), 2 * x.numel() * 256 * 9)
    return {"gemm": _rate(lambda: a @ b, 2 * size**3), "convolution": convolution}


def form(result):
    """Name the number format of a case, and what sets it apart from the default."""
    without = f", without {result['without']}" if result["without"] else ""
    return result["format"] + (", compiled" if result["compiled"] else "") + without


def table(results):
    """Give the lines of a Markdown table of the cases."""
    yield "| case | format | median | fastest to slowest | per second | GFLOP/s | of the product's | of the convolution's |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        work = (
            f"{result['model']} x{result['scale']}, {result['parameters'] / 1e6:.1f} M parameters"
        )
        if result["case"] == "pipeline":
            work = f"patches of {result['patch_size']}, {result['workers']} loader processes"
        elif result["case"] != "forward":
            work += f", {result['loss']}"
        words = [
            f"{result['case']}, {work}",
            form(result) if result["gflops"] else "",
            f"{result['seconds']:.3g} s",
        ]
        words += [
            f"{result['fastest']:.3g} to {result['slowest']:.3g} s",
            f"{result['rate']:.4g} {result['unit'][:-2]}",
        ]
        if result["gflops"]:
            words += [
                f"{result['gflops']:.0f}",
                *(f"{result[f'share_of_{name}']:.0%}" for name in ("gemm", "convolution")),
            ]
        else:
            words += ["", "", ""]
        yield f"| {' | '.join(words)} |"


def describe(result):
    """Give the lines that are printed for a case."""
    patches = f"batch {result['batch_size']}, patch {result['patch_size']}"
    network = f"{result['model']} x{result['scale']}"
    work = {
        "forward": f"{network}, one image",
        "pipeline": f"{patches}, {result['workers']} loader processes",
    }
    work = work.get(result["case"], f"{network}, {result['loss']}, {patches}")
    yield f"{result['case']}: {work}" + (
        "" if result["case"] == "pipeline" else f", {form(result)}"
    )
    spread = f"{result['fastest']:.3f} to {result['slowest']:.3f} s, {result['times_first']:.2f} times the first case"
    yield f"  {result['rate']:.1f} {result['unit']}, {spread}, peak memory {result['peak_memory_gib']:.2f} GiB"
    if result["gflops"]:
        shares = [result[f"share_of_{name}"] for name in ("gemm", "convolution")]
        yield "  {:.0f} GFLOP/s, {:.0%} of the matrix product's, {:.0%} of the convolution's".format(
            result["gflops"], *shares
        )
    rate = f"patches/s {result['rate']:.0f}"
    yield rate if result["case"] == "pipeline" else f"{result['case']} {result['seconds']:.3g} s"


def split_cases(words):
    """Split [CASE] FLAGS -- [CASE] FLAGS into (case, flags, what it is to be without).

    Raises:
        UserError: --without is given something else than a name of `WITHOUT`, or to another case than `plain`.
    """
    cases, part = [], []
    for word in [*words, "--"]:
        if word != "--":
            part.append(word)
            continue
        kind = part.pop(0) if part and part[0] in GAN_TYPES else "step"
        without = None
        if "--without" in part:
            place = part.index("--without")
            without = "".join(part[place + 1 : place + 2])
            if kind != "plain" or without not in WITHOUT:
                raise UserError(f"--without {without}: `plain` can be without {', '.join(WITHOUT)}")
            part = part[:place] + part[place + 2 :]
        cases.append((kind, part, without))
        part = []
    return cases


def main(argv=None):
    """Time and print; gives the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed runs of each case (default: 5)"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="side of the LR image of `forward` (default: 128)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--table", action="store_true", help="print a Markdown table instead")
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    own, first = parser.parse_known_args(words[:cut])
    disable_malloc_trim()
    try:
        split = split_cases([*first, *words[cut:]])
        cases = [Case(kind, parse_args(flags), own.size, without) for kind, flags, without in split]
        for case in cases:
            case.warm_up()
        for _ in range(own.repeats):
            for case in cases:
                case.time()
        for case in cases:
            case.close()
        timed = {(case.device, case.format) for case in cases if case.flops}
        disable_malloc_trim()
        rates = {key: measure_rates(*key) for key in timed}
        base = statistics.median(cases[0].seconds)
        results = [case.result(rates.get((case.device, case.format), {}), base) for case in cases]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for (_, name), rate in sorted(rates.items(), key=lambda item: item[0][1]):
        print(
            f"{name}: matrix product {rate['gemm']:.0f} GFLOP/s, 3x3 convolution {rate['convolution']:.0f} GFLOP/s"
        )
    print("\n".join(table(results) if own.table else itertools.chain(*map(describe, results))))
    if own.json:
        own.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
