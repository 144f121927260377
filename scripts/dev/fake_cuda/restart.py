"""Start the program again with a CUDA device for the CPU build of torch (device.cpp)."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")


class NoCompilerError(Exception):
    """The fake device cannot be built here; the message says why."""


def _compiler():
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return shutil.which(name)
    raise NoCompilerError("no C++ compiler: install g++ or set CXX")


def library():
    """Return the path of the compiled device, which is cached for the version of torch.

    Raises:
        NoCompilerError: it cannot be compiled.
    """
    if not sys.platform.startswith("linux"):
        raise NoCompilerError("the fake CUDA device is loaded with LD_PRELOAD, which needs Linux")
    if torch.version.cuda or torch.version.hip:
        raise NoCompilerError("the fake CUDA device needs the CPU build of torch")
    key = SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()
    name = f"fake_cuda_{os.getuid()}_{hashlib.sha256(key).hexdigest()[:16]}"
    path = Path(tempfile.gettempdir(), name, "device.so")
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    root = Path(torch.__file__).parent
    partial = path.with_suffix(f".{os.getpid()}")  # several processes may compile at once
    command = [_compiler(), "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{root / 'include'}"]
    command += [str(SOURCE), f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", "-o", str(partial)]
    command += [f"-Wl,-rpath,{root / 'lib'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise NoCompilerError(
            f"device.cpp does not compile with torch {torch.__version__}: {lines[0]}"
        )
    os.replace(partial, path)
    return path


def environment():
    """Return the environment variables of a process with the fake device.

    Raises:
        NoCompilerError: it cannot be compiled.
    """
    others = os.environ.get("LD_PRELOAD", "").split(":")
    preload = [str(library()), *(x for x in others if x and x != str(library()))]
    return {**os.environ, "LD_PRELOAD": ":".join(preload), "OMP_NUM_THREADS": "1"}


def restart_with_fake_device():
    """Restart this process with the fake device, unless it already has it.

    Call this before anything else.

    Raises:
        NoCompilerError: it cannot be compiled.
    """
    if str(library()) not in os.environ.get("LD_PRELOAD", "").split(":"):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment())
