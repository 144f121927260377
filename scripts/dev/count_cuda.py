#!/usr/bin/env python3
"""Count the CUDA operations of an ordinary training step, without a GPU.

    scripts/dev/count_cuda.py [--ranks N] [--floor] [--verbose] FLAGS
        FLAGS       flags of main.py: --model, --template, --loss, --precision, --batch_size ...
        --ranks     count the step of rank 0 of N processes (1)
        --floor     also print the arithmetic and the memory traffic of the step, and the least time
                    that an H100 needs for them and its host for the launches
        --verbose   also list operations, waits, copies and exchanges by operation and source line
    scripts/dev/count_cuda.py --scale 4 --precision bf16 --template PCL_InfoNCE --ranks 2

The last line reads `ops N waits N copies N exchanges N`:
    ops         operations on CUDA tensors; views and allocations do not count, and an operation
                that launches several kernels, such as a fused optimizer, counts once
    waits       times the host waits for the GPU
    copies      copies from host to device that block the host
    exchanges   collective operations between ranks, without DistributedDataParallel's own

Needs Linux, a C++ compiler and the CPU build of torch; see scripts/dev/fake_cuda.
"""

import argparse
import collections
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts/dev")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from fake_cuda.restart import NoCompilerError, restart_with_fake_device
from fake_cuda.steps import build_trainer, train_step
from fake_cuda.watch import FakeCuda

from runtime.files import UserError


def _table(counts):
    """Yield the lines of --verbose: for each kind, counts by operation and by source line."""
    for kind in counts.KINDS:
        for column, title in enumerate(("operation", "source line")):
            rows = collections.Counter()
            for key, count in getattr(counts, kind).items():
                rows[key[column]] += count
            if rows:
                yield f"{kind} by {title}"
                yield from (f"  {count:5d} {name}" for name, count in rows.most_common())


def main():
    """Count and print.

    Returns:
        exit status: 0; 1 if the fake device cannot be built, or a flag is wrong.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options, flags = parser.parse_known_args()
    os.environ.update(WORLD_SIZE=str(options.ranks), RANK="0", LOCAL_RANK="0")
    os.environ["LOCAL_WORLD_SIZE"] = str(options.ranks)
    try:
        restart_with_fake_device()
        with FakeCuda() as cuda:
            trainer = build_trainer(flags)
            train_step(cuda, trainer)  # the first one also creates the state of the optimizer
            counts = train_step(cuda, trainer)
    except (NoCompilerError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.verbose:
        print("\n".join(_table(counts)))
    if options.floor:
        print("\n".join(counts.work.report(trainer.args.tf32)))
    print(counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
