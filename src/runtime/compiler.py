"""What --compile needs beside torch."""

import importlib.util
import os
import shutil

from runtime.errors import UserError


def require_compiler(device):
    """Raise UserError if torch.compile has no compiler for the device."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UserError("--compile needs the package triton on CUDA: pip install triton")
        return
    names = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if not any(name and shutil.which(name) for name in names):
        raise UserError(
            "--compile needs a C++ compiler: install one (Debian and Ubuntu: apt-get install g++), "
            "set CXX, or leave --compile out"
        )
