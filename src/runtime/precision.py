"""The number format of --precision: where networks compute in 16 bits. Weights, losses and metrics stay in 32."""

import contextlib
import functools
import re
from pathlib import Path

import torch

from runtime.errors import UserError

PRECISIONS = ("single", "half", "bf16", "auto")
_DTYPES = {"half": torch.float16, "bf16": torch.bfloat16}


def autocast(device, precision):
    """Give the context in which a network runs at a precision: single, half (float16 on CUDA, else bfloat16) or bf16."""
    if precision == "single":
        return contextlib.nullcontext()
    dtype = _DTYPES[precision] if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype)


def allow_tf32(allowed):
    """Let CUDA compute products and convolutions of float32 by TF32, of 10 bits, or not."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def autocast_off(x):
    """Give the context in which autocast is off, for what needs 32 bits on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def cast_to_autocast(x):
    """Give x in the format that autocast computes in, or as it is where autocast is off."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@functools.cache
def cpu_bf16_support(path="/proc/cpuinfo"):
    """Name the instructions of this CPU that make products of bf16 faster than those of float32.

    Args:
        path: a file as Linux describes the CPU.

    Returns:
        "AMX", "AVX-512 BF16", or "" for none, or where no Linux tells. Intel's AVX-512 BF16 does not count: where a virtual
        machine hides AMX, an Emerald Rapids multiplied in bf16 at half the rate of float32, an EPYC at 3.9 times.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
    vendor, flags = (re.search(rf"^{name}\s*:(.*)$", text, re.M) for name in ("vendor_id", "flags"))
    flags = flags[1].split() if flags else []
    if "amx_bf16" in flags:
        return "AMX"
    return (
        "AVX-512 BF16"
        if "avx512_bf16" in flags and vendor and vendor[1].strip() != "GenuineIntel"
        else ""
    )


def choose_precision(name, device, log=print):
    """Turn --precision into single, half or bf16; `auto` takes the fastest on this device and logs why.

    CUDA: bf16 from compute capability 8 (Ampere) on, half from 7 (Volta) on, whose matrix units have it. CPU: see `cpu_bf16_support`.
    It is known rather than measured: a measurement that came out otherwise would change the bits of a run made again.

    Raises:
        UserError: the GPU has no bf16.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if name == "bf16" and capability < (8, 0):
            raise UserError(
                f"--precision bf16: {torch.cuda.get_device_name(device)} has no bf16; half is what it has"
            )
        if name == "auto":
            name = "bf16" if capability >= (8, 0) else "half" if capability >= (7, 0) else "single"
            log(f"--precision auto: {name} on {torch.cuda.get_device_name(device)}")
    elif device.type == "cpu" and name == "auto":
        name = "bf16" if cpu_bf16_support() else "single"
        log(
            f"--precision auto: {name} (this CPU has {cpu_bf16_support() or 'no fast units for bf16'})"
        )
    elif device.type == "cpu" and name != "single" and not cpu_bf16_support():
        log(
            f"WARNING: --precision {name}: this CPU has no fast units for bf16, single is likely faster"
        )
    elif name == "auto":
        name = "single"
    return name
