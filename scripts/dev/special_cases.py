#!/usr/bin/env python3
"""Measure the gain of each special case for speed or memory: the table of docs/performance.md.

    scripts/dev/special_cases.py [--list] [--pairs 5] [--only NAME...] [--small] [FLAGS of main.py]
        --pairs   runs with and without the special case, in turn; their medians are printed
        --only    names of rows, as --list prints them
        --small   tiny networks and images, to check the script
        FLAGS     for all cases; without: --precision bf16 in training steps, single in tests

Nothing else should run meanwhile. It takes less than 8 minutes on 2 CPU cores. A row is measured
on a task of a user, such as a training step. `plain_variants.py` has the code without the
special cases. `gain` is the saved share of the time. The memory is the peak of live tensors, or of
the process. Special cases of CUDA (asynchronous copies of batches, cuDNN's choice of
algorithms, blur kernels of one size) are not measured here.
"""

import argparse
import json
import resource
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import bench_cases
import plain_variants as plain
import torch
from special_works import (
    STEP,
    AverageOfWeights,
    Bench,
    ChannelsLast,
    FusedOptimizer,
    InProcesses,
    MallocTrim,
    Ssim,
    StreamedPng,
    WorkerMemory,
)

import metric
from loss import contrastive, discriminator
from model import common, han, nlsn
from optim import EMA
from runtime.files import UserError

PAPER, SINGLE = "--scale 2 --precision single --template", "--scale 4 --precision single"
ATTENTION = nlsn.NonLocalSparseAttention


def training_rows(options):
    """Return the special cases that are measured on training steps."""
    step, plain_step = bench_cases.Step, bench_cases.Plain
    l1, pcl, n_l1 = "L1 step, EDSR x4", "PCL-SR step, EDSR x4", "L1 step, NLSN x2, 2 patches of 96"
    pcl_flags = f"{STEP} --template PCL_InfoNCE"
    nlsn_flags = f"{STEP} --template NLSN --scale 2 --batch_size 2 --patch_size 96"
    return [
        Bench("sub-pixel order, training", l1, options, step, STEP,
              [(common.SubPixelConv, "forward", plain.shuffled_sub_pixels)]),
        Bench("ConvFp32Out", l1, options, step, STEP,
              [(common.OutputConv, "forward", plain.float32_output_conv)]),
        ChannelsLast("channels_last", l1, options, plain_step, STEP),
        FusedOptimizer("fused Adam", l1, options, plain_step, STEP),
        AverageOfWeights("foreach EMA", f"{l1}, EMA", options, step, STEP,
                         [(EMA, "update", plain.update_in_a_loop)]),
        MallocTrim("malloc trim", l1, options),
        Bench("Haar by rows", pcl, options, step, pcl_flags,
              [(discriminator, "haar_high_frequencies", plain.haar_of_pixels)]),
        Bench("late normalization", pcl, options, step, pcl_flags,
              [(contrastive, "similarities", plain.normalized_similarities)]),
        Bench("NLSN windows, training", n_l1, options, step, nlsn_flags,
              [(ATTENTION, "_windows", plain.joined_windows)]),
        Bench("NLSN permutation", n_l1, options, step, nlsn_flags,
              [(nlsn, "_permute", plain.indexed_rows)]),
        WorkerMemory("shared ring of batches", "6,400 patches, 2 workers", options),
    ]  # fmt: skip


def rows_of_tests(options):
    """Return the special cases that are measured on tests and upscaling."""
    forward, side = bench_cases.Forward, 24 if options.small else 96
    nlsn_work, han_work = (f"forward, {name} x2, {side}x{side}" for name in ("NLSN", "HAN"))
    nlsn_flags, han_flags = f"{PAPER} NLSN", f"{PAPER} HAN"
    return [
        Bench("sub-pixel order, test", "forward, EDSR x4", options, forward, SINGLE,
              [(common.SubPixelConv, "forward", plain.shuffled_sub_pixels)]),
        Bench("folded HAN attention", han_work, options, forward, han_flags,
              [(han.LayerAttention, "forward_fused", plain.unfused_layer_attention)], "tensors"),
        Bench("HAN affinities in chunks", han_work, options, forward, han_flags,
              [(han, "_gram_matrix", plain.stacked_gram_matrix)], "tensors"),
        Bench("NLSN windows, test", nlsn_work, options, forward, nlsn_flags,
              [(ATTENTION, "_windows", plain.joined_windows)], "tensors"),
        Bench("NLSN smallest exponent", nlsn_work, options, forward, nlsn_flags,
              [(nlsn, "MIN_LOGIT", -torch.inf)]),
        Bench("NLSN one exp", nlsn_work, options, forward, nlsn_flags,
              [(ATTENTION, "_attend_once", plain.attend_with_softmax)]),
        Bench("NLSN rounds in turn", nlsn_work, options, forward, nlsn_flags,
              [(ATTENTION, "forward", plain.all_hash_rounds_at_once)], "tensors"),
        Ssim("SSIM by matmuls", "SSIM of 2040x1356 RGB", options, None, "",
             [(metric, "_ssim_map", plain.ssim_map_of_convolutions)]),
        StreamedPng("streamed PNG", "write 4000x4000 (process)", options),
    ]  # fmt: skip


def measure(row, n_pairs):
    """Measure one row; return its cells."""
    row.prepare()
    is_child = isinstance(row, InProcesses)
    if not is_child:
        for enabled in (True, False):
            row.measure(enabled)
    runs = [(row.measure(True), row.measure(False)) for _ in range(n_pairs)]
    times = [[run[i][0] for run in runs] for i in (0, 1)]
    seconds = [statistics.median(column) for column in times]
    gain = statistics.median(1 - a / b for a, b in zip(*times, strict=True))
    memory = ["", "", ""]
    if row.memory_of:
        sizes = [runs[0][i][1] if is_child else row.peak_bytes(i == 0) for i in (0, 1)]
        memory = [*(f"{size / 2**20:.0f} MiB" for size in sizes), f"{1 - sizes[0] / sizes[1]:.0%}"]
    row.close()
    return [row.name, row.work, *(f"{s:.4g} s" for s in seconds), f"{gain:.1%}", *memory]


def build_parser():
    """Build the parser of this script's own flags."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--pairs", type=int, default=5, help="runs with and without (default: 5)")
    flag("--only", nargs="+", metavar="NAME", help="rows to measure (default: all)")
    flag("--list", action="store_true", help="print the names of the rows")
    flag("--small", action="store_true", help="tiny networks and images")
    flag("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def main(argv=None):
    """Measure and print the table; return the exit status."""
    options, flags = build_parser().parse_known_args(argv)
    options.flags = flags
    rows = {row.name: row for row in training_rows(options) + rows_of_tests(options)}
    if options.child:
        name, enabled = options.child
        seconds = rows[name].run_child(enabled == "1")
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
        return 0
    if options.list:
        print("\n".join(rows))
        return 0
    if unknown := set(options.only or []) - set(rows):
        print(f"error: --only {min(unknown)} must be a name that --list prints", file=sys.stderr)
        return 1
    print("| special case | work | with | without | gain | memory with | without | saved |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    try:
        for name in options.only or rows:
            print(f"| {' | '.join(measure(rows[name], options.pairs))} |", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
