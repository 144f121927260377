#!/usr/bin/env python3
"""Time training steps, the forward pass of a test image and the input pipeline.

    scripts/dev/bench.py [--repeats 5] [--json FILE] [--table] CASE FLAGS [-- CASE FLAGS]...
        CASE    step      a training step on random patches, without data loading (the default)
                plain     the same work for an L1 loss in a bare PyTorch loop
                forward   the forward pass of an LR image of --size x --size pixels (128)
                pipeline  training patches from images of 2040x1356
        FLAGS   flags of main.py; --compile is for `step`. For `plain` also --without channels_last,
                fused or kept_memory, to measure the gain of each (kept_memory in a call of its own,
                because earlier cases leave memory behind)
    scripts/dev/bench.py --scale 4 --cpu                                    an L1 step of EDSR
    scripts/dev/bench.py step --scale 4 -- step --scale 4 --template PCL_InfoNCE  and PCL-SR
    scripts/dev/bench.py forward --template NLSN --scale 2 -- pipeline --scale 4 --n_threads 2
    scripts/dev/bench.py plain --scale 4 -- plain --scale 4 --without fused

With torchrun, `step` is timed on all ranks together:
    torchrun --nproc_per_node 2 scripts/dev/bench.py step --scale 4

The cases are timed in turn, so that other load affects all of them. On CUDA, a time is the mean of
10 runs, and the GPU is idle before and after them. Each case prints the median of its times,
patches or images per second, GFLOP/s and their share of those of a large matmul and of a 3x3
convolution in the same number format, the peak memory, and its time relative to the first case. Its
last line reads `step 0.71 s`, `forward 0.48 s` or `patches/s 5000`.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch
from bench_cases import CASES, WITHOUT, Forward, synchronize
from torch.nn.functional import conv2d

from model import choose_device
from option import parse_args
from runtime import distributed
from runtime.files import UserError
from runtime.precision import allow_tf32, tune_convolutions
from runtime.process import disable_malloc_trim

DTYPES = {"half": torch.float16, "bf16": torch.bfloat16}


def _sustained_gflops(run, flops, device):
    """Return the GFLOP/s of `run`, repeated for 0.1 s: short bursts are faster."""
    n_runs, seconds = 1, []
    while len(seconds) < 5:
        synchronize(device)
        t_start = time.perf_counter()
        for _ in range(n_runs):
            run()
        synchronize(device)
        seconds.append(time.perf_counter() - t_start)
        if seconds[-1] < 0.1:
            n_runs, seconds = 2 * n_runs, []
    return flops * n_runs / statistics.median(seconds) / 1e9


def measure_peak_rates(device, number_format):
    """Measure the GFLOP/s of a large matmul and a 3x3 convolution of 256 channels.

    Args:
        device: torch.device.
        number_format: single, tf32, half or bf16.
    """
    dtype = DTYPES.get(number_format, torch.float32)
    allow_tf32(number_format == "tf32")
    tune_convolutions(True)
    size, n_images = (8192, 256) if device.type == "cuda" else (2048, 16)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x = torch.randn(n_images, 256, 48, 48, device=device)
    kernel = torch.randn(256, 256, 3, 3, device=device)
    x, kernel = (t.to(dtype, memory_format=torch.channels_last) for t in (x, kernel))
    return {
        "gemm": _sustained_gflops(lambda: a @ b, 2 * size**3, device),
        "convolution": _sustained_gflops(
            lambda: conv2d(x, kernel, padding=1), 2 * x.numel() * 256 * 9, device
        ),
    }


def _format(result):
    """Return the number format of a case, and how it differs from the default."""
    without = f", without {result['without']}" if result["without"] else ""
    return result["format"] + (", compiled" if result["compiled"] else "") + without


def table(results):
    """Yield the lines of a Markdown table of the cases."""
    columns = ("case", "format", "median", "fastest to slowest", "per second", "GFLOP/s")
    yield f"| {' | '.join((*columns, 'of the matmul', 'of the convolution'))} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        work = (
            f"{result['model']} x{result['scale']}, {result['parameters'] / 1e6:.1f} M parameters"
        )
        if result["case"] == "pipeline":
            work = f"patches of {result['patch_size']}, {result['workers']} workers"
        elif result["case"] != "forward":
            work += f", {result['loss']}"
        shares = [f"{result.get(f'share_of_{name}', 0):.0%}" for name in ("gemm", "convolution")]
        cells = [
            f"{result['case']}, {work}",
            _format(result) if result["gflops"] else "",
            f"{result['seconds']:.3g} s",
            f"{result['fastest']:.3g} to {result['slowest']:.3g} s",
            f"{result['rate']:.4g} {result['unit'][:-2]}",
            *([f"{result['gflops']:.0f}", *shares] if result["gflops"] else ["", "", ""]),
        ]
        yield f"| {' | '.join(cells)} |"


def describe(result):
    """Yield the lines that are printed for a case."""
    patches = f"batch {result['batch_size']}, patch {result['patch_size']}"
    network = f"{result['model']} x{result['scale']}"
    work = {
        "forward": f"{network}, one image, {_format(result)}",
        "pipeline": f"{patches}, {result['workers']} workers",
    }
    default = f"{network}, {result['loss']}, {patches}, {_format(result)}"
    yield f"{result['case']}: {work.get(result['case'], default)}"
    yield (
        f"  {result['rate']:.1f} {result['unit']}, {result['fastest']:.4g} to "
        f"{result['slowest']:.4g} s, {result['times_first']:.2f} times the first case, peak memory "
        f"{result['peak_memory_gib']:.2f} GiB"
    )
    if result["gflops"]:
        yield (
            f"  {result['gflops']:.0f} GFLOP/s, {result['share_of_gemm']:.0%} of the matmul, "
            f"{result['share_of_convolution']:.0%} of the convolution"
        )
    if result["case"] == "pipeline":
        yield f"patches/s {result['rate']:.0f}"
    else:
        yield f"{result['case']} {result['seconds']:.3g} s"


def split_cases(words):
    """Split `[CASE] FLAGS -- [CASE] FLAGS` into a list of (kind, flags, without).

    Raises:
        UserError: --without has an unknown value, or belongs to a case other than `plain`.
    """
    cases, flags = [], []
    for word in [*words, "--"]:
        if word != "--":
            flags.append(word)
            continue
        kind = flags.pop(0) if flags and flags[0] in CASES else "step"
        without = None
        if "--without" in flags:
            i = flags.index("--without")
            without = "".join(flags[i + 1 : i + 2])
            if kind != "plain" or without not in WITHOUT:
                names = ", ".join(WITHOUT)
                raise UserError(f"--without {without} must be one of {names}, for the case `plain`")
            flags = flags[:i] + flags[i + 2 :]
        cases.append((kind, flags, without))
        flags = []
    return cases


def _run_cases(cases, repeats):
    """Time the cases; return their results and the peak rate of each number format."""
    for case in cases:
        case.warm_up()
    for _ in range(repeats):
        for case in cases:
            case.time()
    for case in cases:
        case.close()
    disable_malloc_trim()
    formats = {(case.device, case.number_format) for case in cases if case.flops}
    rates = {key: measure_peak_rates(*key) for key in sorted(formats, key=str)}
    first = statistics.median(cases[0].seconds)
    results = [c.result(rates.get((c.device, c.number_format), {}), first) for c in cases]
    return results, {name: rate for (_, name), rate in rates.items()}


def main(argv=None):
    """Time and print.

    Returns:
        exit status: 0, or 1 for bad flags.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each case (5)")
    parser.add_argument(
        "--size", type=int, default=128, help="side of the image of `forward` (128)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--table", action="store_true", help="print a Markdown table instead")
    words = list(sys.argv[1:] if argv is None else argv)
    first_end = words.index("--") if "--" in words else len(words)
    options, first = parser.parse_known_args(words[:first_end])
    disable_malloc_trim()
    Forward.size = options.size
    try:
        split = split_cases([*first, *words[first_end:]])
        cases = [CASES[kind](parse_args(flags), without) for kind, flags, without in split]
        with distributed.process_group(choose_device("--cpu" in words)):
            results, rates = _run_cases(cases, options.repeats)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not distributed.is_main_process():
        return 0
    for name, rate in rates.items():
        print(f"{name}: matmul {rate['gemm']:.0f} GFLOP/s, convolution {rate['convolution']:.0f}")
    print("\n".join(table(results) if options.table else itertools.chain(*map(describe, results))))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
