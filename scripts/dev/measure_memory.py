#!/usr/bin/env python3
"""Measure the peak memory of inference on the CPU, one process per case.

scripts/dev/measure_memory.py tiles [--size 1024] [--scale 4] [--tiles 2]
    each network at its published size, a SIZExSIZE LR image in tiles (--chop). All tiles have
    one shape and take the same memory, so the network runs only on the first --tiles
scripts/dev/measure_memory.py attention [--size 128]
    HAN on a SIZExSIZE LR image x2, with its layer attention fused into the next convolution,
    and without
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
    """Count the bytes of the live tensors; `peak` is their maximum."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.n_tensors = 0, 0, {}

    def _release(self, storage, n_bytes):
        self.n_tensors[storage] -= 1
        if not self.n_tensors[storage]:
            del self.n_tensors[storage]
            self.live -= n_bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage().data_ptr()
                n_bytes = tensor.untyped_storage().nbytes()
                self.live += 0 if storage in self.n_tensors else n_bytes
                self.n_tensors[storage] = self.n_tensors.get(storage, 0) + 1
                weakref.finalize(tensor, self._release, storage, n_bytes)
        self.peak = max(self.peak, self.live)
        return result


def plain_layer_attention(self, maps, last_conv):
    """Compute HAN's layer attention with the mixed stack in memory, as in equation 5."""
    return last_conv(self(maps))


def run_tiles(net, args, lr, n_tiles):
    """Upscale in tiles, of which only the first `n_tiles` run through the network."""
    scale, n_calls = args.scale[0], 0

    def forward(x, _):
        nonlocal n_calls
        n_calls += 1
        if n_calls <= n_tiles:
            return net(x)
        return x.new_zeros(1, 3, x.shape[2] * scale, x.shape[3] * scale)

    upscaler = Upscaler(net, chop=True, tile=args.chop_size, overlap=args.chop_overlap)
    upscaler._forward = forward
    upscaler(lr, scale)
    return f"{n_tiles} of {n_calls} tiles"


def run_attention(net, lr, kind):
    """Run HAN with its layer attention fused or plain, and count the bytes of tensors."""
    if kind == "plain":
        LayerAttention.forward_fused = plain_layer_attention
    with LiveBytes() as tensors:
        net(lr)
    return f"{kind}, {tensors.peak / 2**20:.0f} MiB of tensors"


def measure(kind, preset, size, scale, n_tiles):
    """Run one case in this process and print its row."""
    args = parse_args(["--template", preset, "--scale", str(scale), "--cpu"])
    torch.manual_seed(0)
    net = build_network(args).eval()
    lr = torch.rand(1, 3, size, size) * 255
    kib_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    t_start = time.perf_counter()
    with torch.inference_mode():
        is_tiles = kind == "tiles"
        label = run_tiles(net, args, lr, n_tiles) if is_tiles else run_attention(net, lr, kind)
    kib_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = [f"{kib / 2**20:.2f} GiB" for kib in (kib_peak, kib_peak - kib_before)]
    seconds = time.perf_counter() - t_start
    print(f"| {preset} | {label} | {gib[0]} | {gib[1]} | {seconds:.0f} s |", flush=True)


def main(argv=None):
    """Measure all cases; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["tiles", "attention", "case"])
    parser.add_argument("case", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int)
    parser.add_argument("--scale", type=int)
    parser.add_argument("--tiles", type=int, default=2)
    args = parser.parse_args(argv)
    if args.command == "case":  # a process of its own, started below
        kind, preset, *numbers = args.case
        measure(kind, preset, *map(int, numbers))
        return 0
    if args.command == "tiles":
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
