#!/usr/bin/env python3
"""Time training steps on random patches: forward, loss, backward and update, without data loading.

    scripts/bench.py [--steps 5] FLAGS of main.py
        scripts/bench.py --scale 4 --cpu                     an L1 step of EDSR
        scripts/bench.py --scale 4 --cpu --template PCL      a PCL-SR step of it

Prints seconds (median), patches per second and the peak memory of the process; the last line reads `step 0.71 s`.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
from errors import InputError
from loss import Loss
from model import build_network, choose_device
from optim import build_optimizer
from option import parse_args


def time_steps(args, steps):
    """Give the seconds of each of `steps` training steps, after one that is not counted."""
    torch.manual_seed(args.seed)
    device, scale = choose_device(args.cpu), args.scale[0]
    net = build_network(args).to(device)
    loss, optimizer = Loss(args, net).to(device), build_optimizer(args, net.parameters())
    side = args.patch_size // scale
    lr, hr = (
        (torch.rand(args.batch_size, args.n_colors, s, s, device=device) * args.rgb_range).contiguous(
            memory_format=torch.channels_last
        )
        for s in (side, side * scale)
    )
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        value = loss(net(lr), hr, lr)
        value.backward()
        optimizer.step()
        value.item()  # waits for an accelerator
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main(argv=None):
    """Time and print; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    own, flags = parser.parse_known_args(argv)
    try:
        args = parse_args(flags)
        seconds = time_steps(args, own.steps)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    median = statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    print(f"{args.model} x{args.scale[0]}, {args.loss}, batch {args.batch_size}, patch {args.patch_size}, {args.precision}")
    print(f"{args.batch_size / median:.1f} patches/s, {min(seconds):.2f} to {max(seconds):.2f} s, peak memory {peak:.2f} GiB")
    print(f"step {median:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
