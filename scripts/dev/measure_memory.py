#!/usr/bin/env python3
"""Measure the peak memory of inference on the CPU, in a process of its own for each case.

scripts/dev/measure_memory.py tiles [--size 1024] [--scale 4] [--tiles 2]
    each network at its published size, a SIZExSIZE LR image in tiles (--chop). All tiles have one
    shape and so take the same memory: to save hours, the network runs only on the first --tiles
scripts/dev/measure_memory.py attention [--size 128]
    HAN on a SIZExSIZE LR image x2, with its layer attention fused into the next convolution and not
"""

import argparse
import resource
import subprocess
import sys
import time
import weakref
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model import build_network
from model.han import LayerAttention
from model.inference import Upscaler
from option import parse_args

PRESETS = ("EDSR_paper", "RCAN", "HAN", "NLSN")


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that are alive; `peak` is the most at any time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.uses = 0, 0, {}

    def _release(self, storage, size):
        self.uses[storage] -= 1
        if not self.uses[storage]:
            del self.uses[storage]
            self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage().data_ptr()
                size = tensor.untyped_storage().nbytes()
                self.live += 0 if storage in self.uses else size
                self.uses[storage] = self.uses.get(storage, 0) + 1
                weakref.finalize(tensor, self._release, storage, size)
        self.peak = max(self.peak, self.live)
        return result


def plain_layer_attention(self, maps, last_conv):
    """Compute HAN's layer attention with the mixed stack in memory, as in equation 5."""
    return last_conv(self(maps))


def measure(case):
    """Run one case (kind, preset, size, scale, tiles) and print its row."""
    kind, preset, size, scale, tiles = case[0], case[1], int(case[2]), int(case[3]), int(case[4])
    args = parse_args(["--template", preset, "--scale", str(scale), "--cpu"])
    torch.manual_seed(0)
    net = build_network(args).eval()
    lr = torch.rand(1, 3, size, size) * 255
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with torch.inference_mode():
        if kind == "tiles":
            calls = 0

            def some(x):
                nonlocal calls
                calls += 1
                return (
                    net(x)
                    if calls <= tiles
                    else x.new_zeros(1, 3, x.shape[2] * scale, x.shape[3] * scale)
                )

            upscaler = Upscaler(net, chop=True, tile=args.chop_size, overlap=args.chop_overlap)
            upscaler._forward = lambda x, _: some(x)
            upscaler(lr, scale)
            what = f"{tiles} of {calls} tiles"
        else:
            if kind == "plain":
                LayerAttention.forward_fused = plain_layer_attention
            with LiveBytes() as tensors:
                net(lr)
            what = f"{kind}, {tensors.peak / 2**20:.0f} MiB of tensors"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - began
    print(
        f"| {preset} | {what} | {peak / 2**20:.2f} GiB | {(peak - before) / 2**20:.2f} GiB "
        f"| {seconds:.0f} s |",
        flush=True,
    )


def main(argv=None):
    """Measure all cases; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tiles", "attention", "case"])
    parser.add_argument("case", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int)
    parser.add_argument("--scale", type=int)
    parser.add_argument("--tiles", type=int, default=2)
    args = parser.parse_args(argv)
    if args.what == "case":
        measure(args.case)
        return 0
    if args.what == "tiles":
        cases = [
            ("tiles", preset, args.size or 1024, args.scale or 4, args.tiles) for preset in PRESETS
        ]
    else:
        cases = [(kind, "HAN", args.size or 128, args.scale or 2, 0) for kind in ("fused", "plain")]
    print(
        "| network | case | peak of the process | of it for the image | time |\n"
        "| --- | --- | --- | --- | --- |",
        flush=True,
    )
    return max(
        subprocess.run([sys.executable, __file__, "case", *map(str, case)]).returncode
        for case in cases
    )


if __name__ == "__main__":
    sys.exit(main())
