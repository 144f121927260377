"""Requirements of --compile in addition to torch."""

import importlib.util
import os
import shutil

import torch

from runtime.errors import UserError

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


def compile_network(net, mode):
    """Return a network that torch.compile has compiled, for fixed shapes, in one of its modes."""
    return torch.compile(net, mode=mode, dynamic=False)


def require_compiler(device):
    """Raise UserError if torch.compile does not work on the device."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UserError("--compile needs the package triton on CUDA: pip install triton")
    else:
        names = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
        if not any(name and shutil.which(name) for name in names):
            raise UserError(
                "--compile needs a C++ compiler: install one (Debian and Ubuntu: apt-get install "
                "g++), set CXX, or leave --compile out"
            )
    _compile_something(device)


def _compile_something(device):
    """Raise UserError if a small function cannot be compiled: headers may be missing."""

    def double(x):
        return (x * 2).relu()

    try:
        torch.compile(double)(torch.ones(8, device=device))
    except Exception as error:  # of many types, by device and version of torch
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or [repr(error)]
        raise UserError(
            f"--compile: the compiler of torch.compile fails here: {errors[0][:200]}. Set CXX to a "
            "C++ compiler that works, or leave --compile out"
        ) from error
