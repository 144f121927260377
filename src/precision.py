"""The number format of --precision: where networks compute in 16 bits. Weights, losses and metrics stay in 32."""

import contextlib
import functools
import time

import torch
from torch.nn.functional import conv2d

from errors import InputError

PRECISIONS = ("single", "half", "bf16", "auto")
_DTYPES = {"half": torch.float16, "bf16": torch.bfloat16}
WORTH = 1.2  # how much faster bf16 must be for `auto` to take it


def autocast(device, precision):
    """Give the context in which a network runs at a precision: single, half (float16 on CUDA, else bfloat16) or bf16."""
    if precision == "single":
        return contextlib.nullcontext()
    dtype = _DTYPES[precision] if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype)


def exact(x):
    """Give the context in which autocast is off, for what needs 32 bits on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def to_autocast(x):
    """Give x in the format that autocast computes in, or as it is where autocast is off."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@functools.cache
def bf16_gain():
    """Measure how many times as fast as single precision bf16 is on this CPU, in training a convolution."""
    weight = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    images = torch.ones(2, 64, 24, 24).contiguous(memory_format=torch.channels_last)

    def seconds(precision):
        best = float("inf")
        for _ in range(4):
            began = time.perf_counter()
            with autocast(images.device, precision):
                conv2d(images, weight, padding=1).float().sum().backward()
            best = min(best, time.perf_counter() - began)
        return best

    return seconds("single") / seconds("bf16")


def choose_precision(name, device, log=print):
    """Turn --precision into single, half or bf16; `auto` takes the fastest on this device and logs why.

    CUDA: bf16 from compute capability 8 (Ampere) on, half from 7 (Volta) on, whose matrix units have it. CPU: measured.

    Raises:
        InputError: the GPU has no bf16.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if name == "bf16" and capability < (8, 0):
            raise InputError(f"--precision bf16: {torch.cuda.get_device_name(device)} has no bf16; half is what it has")
        if name == "auto":
            name = "bf16" if capability >= (8, 0) else "half" if capability >= (7, 0) else "single"
            log(f"--precision auto: {name} on {torch.cuda.get_device_name(device)}")
    elif device.type == "cpu" and name != "single":
        gain = bf16_gain()
        if name == "auto":
            name = "bf16" if gain >= WORTH else "single"
            log(f"--precision auto: {name} (bf16 runs at {gain:.2g} times the speed of single here)")
        elif gain < 1:
            log(f"WARNING: --precision {name}: bf16 runs at {gain:.2g} times the speed of single on this CPU")
    elif name == "auto":
        name = "single"
    return name
