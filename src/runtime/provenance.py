"""Provenance of a result: commit, packages, device."""

import contextlib
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "scikit-image", "imageio", "Pillow", "scipy")


def _git(*words):
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


def git_commit():
    """Return the commit of the program, "(dirty)" if tracked files have changed; or "unknown"."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if Path(_git("rev-parse", "--show-toplevel").strip()) == ROOT:
            dirty = _git("status", "--porcelain", "--untracked-files=no").strip()
            return _git("rev-parse", "HEAD").strip() + (" (dirty)" if dirty else "")
    return "unknown"


def provenance(device):
    """Yield lines that say when, with which commit, packages and device a run was started.

    Nothing is looked up before the first line is asked for: a test that writes no config.txt needs
    neither git nor the list of packages.
    """
    versions = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    yield f"started {time.strftime('%Y-%m-%d %H:%M:%S')}"
    yield f"commit {git_commit()}"
    yield f"Python {platform.python_version()}, {', '.join(versions)}"
    yield f"device {device.type}, {name}"
