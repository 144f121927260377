"""Arithmetic and memory traffic of operations, and the shortest time that a GPU needs."""

import collections

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

GPU = "H100 SXM"
# NVIDIA H100 Tensor Core GPU data sheet, SXM, dense: operations and bytes a second
RATES = {"bf16": 989e12, "half": 989e12, "tf32": 494e12, "float32": 67e12}
RATES["float64"] = 67e12  # by the tensor cores; SSIM is computed in float64
BANDWIDTH = 3.35e12
LAUNCH = 5e-6  # seconds of the host for an operation: an estimate
FORMATS = {torch.bfloat16: "bf16", torch.float16: "half", torch.float32: "float32"}
FORMATS[torch.float64] = "float64"


def _n_bytes(tree):
    """Return the stored bytes of all tensors in a structure."""
    return sum(
        min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
        for x in tree_leaves(tree)
        if isinstance(x, torch.Tensor) and x.device.type == "cuda"
    )


class Work:
    """The work of the operations of a step.

    Attributes:
        flops: floating-point operations of matmuls and convolutions, by number format.
        n_bytes: memory traffic, if each operation reads its inputs and writes its results once.
        n_ops: number of operations.
    """

    def __init__(self):
        self.flops, self.n_bytes, self.n_ops = collections.Counter(), 0, 0

    def add(self, func, args, kwargs, result):
        """Add an operation on CUDA tensors."""
        self.n_ops += 1
        self.n_bytes += _n_bytes((args, kwargs)) + _n_bytes(result)
        count = flop_registry.get(func.overloadpacket)
        if count:
            first = next(x for x in tree_leaves(args) if isinstance(x, torch.Tensor))
            self.flops[FORMATS[first.dtype]] += count(*args, **kwargs, out_val=result)

    def seconds(self, tf32=False):
        """Return the least seconds for arithmetic, memory and launches, by name.

        Args:
            tf32: whether matmuls and convolutions of float32 use TF32.
        """
        rates = RATES | ({"float32": RATES["tf32"]} if tf32 else {})
        return {
            "arithmetic": sum(n / rates[name] for name, n in self.flops.items()),
            "memory": self.n_bytes / BANDWIDTH,
            "launches": self.n_ops * LAUNCH,
        }

    def report(self, tf32=False):
        """Yield lines: the work, the floor of each kind, and the largest."""
        flops = ", ".join(f"{n / 1e9:,.1f} GFLOP in {name}" for name, n in self.flops.items())
        yield f"work: {flops}; {self.n_bytes / 1e9:.2f} GB"
        seconds = self.seconds(tf32)
        times = ", ".join(f"{name} {t * 1e3:.2f} ms" for name, t in seconds.items())
        yield f"floor of an {GPU} (estimate): {times}"
        yield f"limit (estimate): {max(seconds, key=seconds.get)}"
