"""--precision: networks compute in 16 bits; weights, losses and metrics stay in float32."""

import contextlib
import functools
import re
from pathlib import Path

import torch

from runtime.files import UserError

PRECISIONS = ("single", "half", "bf16", "auto")


def autocast(device, precision):
    """Return the context for a network at a precision: single, half (CUDA: float16) or bf16."""
    if precision == "single":
        return contextlib.nullcontext()
    return torch.autocast(device.type, autocast_dtype(device, precision))


def autocast_dtype(device, precision):
    """Return the dtype of `autocast` at half or bf16."""
    is_float16 = precision == "half" and device.type == "cuda"
    return torch.float16 if is_float16 else torch.bfloat16


@contextlib.contextmanager
def tf32_allowed():
    """Allow TF32 in float32 convolutions on CUDA during a `with` block, unless it is compiled."""
    if torch.compiler.is_compiling():  # torch.compile cannot trace a change of this setting
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def autocast_off(x):
    """Return the context that turns autocast off on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def cast_to_autocast(x):
    """Return x in the dtype of autocast; x itself if autocast is off."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@functools.cache
def cpu_bf16_support(path="/proc/cpuinfo"):
    """Return the instructions that make bf16 matmuls fast: "AMX", "AVX-512 BF16", or ""."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
    vendor, flags = (re.search(rf"^{name}\s*:(.*)$", text, re.M) for name in ("vendor_id", "flags"))
    flags = flags[1].split() if flags else []
    if "amx_bf16" in flags:
        return "AMX"
    # on an Emerald Rapids whose virtual machine hides AMX, AVX-512 BF16 has half the rate of
    # float32, on an EPYC 3.9 times
    is_intel = not vendor or vendor[1].strip() == "GenuineIntel"
    return "AVX-512 BF16" if "avx512_bf16" in flags and not is_intel else ""


def choose_precision(name, device, log, net):
    """Return single, half or bf16 for --precision, which the network must support."""
    chosen = _fastest_precision(name, device, log)
    unsupported = getattr(net, "unsupported_dtypes", ())
    if chosen == "single" or autocast_dtype(device, chosen) not in unsupported:
        return chosen
    if name != "auto":
        raise UserError(f"--precision {name} must be another one: the network has no {name}")
    log(f"--precision auto: single, the network has no {chosen}")
    return "single"


def _fastest_precision(name, device, log):
    """Return single, half or bf16 for --precision; `auto` is the fastest on the device."""
    # not measured: another outcome would change the bits of a repeated run
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        gpu = torch.cuda.get_device_name(device)
        if name == "bf16" and capability < (8, 0):
            raise UserError(f"--precision bf16 must be half on {gpu}, which has no bf16")
        if name == "auto":  # matrix units have bf16 from Ampere on, half from Volta on
            name = "bf16" if capability >= (8, 0) else "half" if capability >= (7, 0) else "single"
            log(f"--precision auto: {name} on {gpu}")
    elif device.type == "cpu" and name == "auto":
        name = "bf16" if cpu_bf16_support() else "single"
        units = cpu_bf16_support() or "no fast units for bf16"
        log(f"--precision auto: {name} (this CPU has {units})")
    elif device.type == "cpu" and name != "single" and not cpu_bf16_support():
        log(f"WARNING: --precision {name} is likely slower than single on this CPU")
    elif name == "auto":
        name = "single"
    return name
