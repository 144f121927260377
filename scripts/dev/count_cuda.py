#!/usr/bin/env python3
"""Count what an ordinary training step asks of a GPU, without a GPU.

    scripts/dev/count_cuda.py FLAGS             flags of main.py: --model, --template, --loss ...
    scripts/dev/count_cuda.py --verbose FLAGS   also lists waits and copies by line of src

The last line reads `ops N waits N copies N`: operations on CUDA tensors; times the host waits for
the GPU; copies to the GPU that block the host. A tensor on the wrong device is an error that names
the line. Needs Linux, a C++ compiler and the CPU build of torch; see fake_cuda.py.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch
from fake_cuda import DEVICE, FakeCuda, NoCompilerError, restart_with_fake_device
from torch._subclasses.fake_tensor import unset_fake_temporarily

from data.loader import Batch
from loss import Loss
from model import build_network
from option import parse_args
from runtime.files import UserError
from trainer import Trainer


def build_trainer(argv):
    """Build the trainer as main.py does, with random weights."""
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    checkpoint = SimpleNamespace(log=lambda line: None)
    with unset_fake_temporarily():  # files of weights hold real tensors
        net = build_network(args)
    net.to(DEVICE)
    with unset_fake_temporarily():
        loss = Loss(args, net, checkpoint.log)
    trainer = Trainer(args, net, loss.to(DEVICE), SimpleNamespace(tests=[]), checkpoint, DEVICE)
    trainer.net.train()
    return trainer


def count_step(cuda, trainer, step=None):
    """Run one training step; return its counts. Step 1 checks and logs gradients, None is ordinary."""
    args, scale = trainer.args, trainer.args.scale[0]

    def images(side):  # in the memory format of the data loader
        shape = (args.batch_size, side, side, args.n_colors)
        return torch.empty(shape, dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)

    side, names = args.patch_size // scale, ["image"] * args.batch_size
    batch = Batch(images(side), images(side * scale), names, scale)
    cuda.reset()
    trainer.train_step(batch, step or args.print_every + 1)
    return cuda.counts


def main():
    """Count and print; return the exit status: 1 for bad flags or without a compiler."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true")
    options, flags = parser.parse_known_args()
    try:
        restart_with_fake_device()
        with FakeCuda() as cuda:
            trainer = build_trainer(flags)
            count_step(cuda, trainer)  # the first one also creates the state of the optimizer
            counts = count_step(cuda, trainer)
    except (NoCompilerError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for kind in ("waits", "copies") if options.verbose else ():
        for (operation, line), count in counts[kind].most_common():
            print(f"{count:5d} {kind} {operation} {line}")
    print(" ".join(f"{kind} {count.total()}" for kind, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
