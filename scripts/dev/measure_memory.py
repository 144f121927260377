#!/usr/bin/env python3
"""Measure the peak memory of inference on the CPU, in a process of its own for each case.

scripts/dev/measure_memory.py tiles [--size 1024] [--scale 4] [--tiles 2]
    each network at its published size, a SIZExSIZE LR image in tiles (--chop). All tiles have one shape and so take the
    same memory: the network runs on the first --tiles of them, the others are left blank to save hours
scripts/dev/measure_memory.py attention [--size 128]
    HAN and NLSN on a SIZExSIZE LR image x2, beside a plain form of their attentions
"""

import argparse
import resource
import subprocess
import sys
import time
import weakref
from pathlib import Path

import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from model import build_network
from model.han import LayerAttention
from model.inference import Upscaler
from model.nlsn import NonLocalSparseAttention
from option import parse_args

PRESETS = ("EDSR_paper", "RCAN", "HAN", "NLSN")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive; `peak` is the most at any time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.uses = 0, 0, {}

    def _release(self, place, size):
        self.uses[place] -= 1
        if not self.uses[place]:
            del self.uses[place]
            self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
                self.live += 0 if place in self.uses else size
                self.uses[place] = self.uses.get(place, 0) + 1
                weakref.finalize(tensor, self._release, place, size)
        self.peak = max(self.peak, self.live)
        return result


def plain_layer_attention(self, maps, last_conv):
    """HAN's layer attention with the mixed stack in memory, as equation 5 has it."""
    return last_conv(self(maps))


def plain_sparse_attention(self, x):
    """NLSN's attention of all hash rounds at once, each chunk's three neighbours gathered for keys and values."""
    batch, channels, height, width = x.shape
    match, value = (f(x).flatten(2).transpose(1, 2) for f in (self.conv_match, self.conv_assembly))
    size, rounds, length = self.chunk_size, self.n_hashes, height * width
    codes = self._codes(match)  # (B, rounds, L)
    order = codes.argsort(dim=-1, stable=True)
    padding = -length % size
    padded = torch.cat([order, order[..., length - padding :]], -1).flatten(1)
    queries, values = (
        x.gather(1, padded[..., None].expand(-1, -1, x.shape[-1])) for x in (match, value)
    )
    queries, values = (x.view(batch, rounds, -1, size, x.shape[-1]) for x in (queries, values))
    keys = normalize(queries, dim=-1, eps=5e-5)
    keys, values = (torch.cat([x, x.roll(1, 2), x.roll(-1, 2)], 3) for x in (keys, values))
    scores = queries @ keys.transpose(-1, -2)
    log_sum = scores.logsumexp(-1, keepdim=True)
    result = ((scores - log_sum).exp() @ values).flatten(2, 3)[:, :, :length]
    undo = order.argsort(-1)
    result = result.gather(2, undo[..., None].expand_as(result))
    weight = log_sum.flatten(2)[:, :, :length].gather(2, undo).softmax(1)
    mixed = (
        (result * weight[..., None]).sum(1).transpose(1, 2).reshape(batch, channels, height, width)
    )
    return x + self.res_scale * mixed


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
                LayerAttention.through = plain_layer_attention
                NonLocalSparseAttention.forward = plain_sparse_attention
            with LiveBytes() as tensors:
                net(lr)
            what = f"{kind}, {tensors.peak / 2**20:.0f} MiB of tensors"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - began
    print(
        f"| {preset} | {what} | {peak / 2**20:.2f} GiB | {(peak - before) / 2**20:.2f} GiB | {seconds:.0f} s |",
        flush=True,
    )


def main(argv=None):
    """Measure all cases; gives the exit status."""
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
        cases = [
            (kind, preset, args.size or 128, args.scale or 2, 0)
            for preset in ("HAN", "NLSN")
            for kind in ("here", "plain")
        ]
    print(
        "| network | case | peak of the process | of it for the image | time |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    return max(
        subprocess.run([sys.executable, __file__, "case", *map(str, case)]).returncode
        for case in cases
    )


if __name__ == "__main__":
    sys.exit(main())
