"""Settings of the C library's memory, free memory, and out-of-memory errors."""

import ctypes
import sys

import torch

# options of mallopt and their range, from malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_THRESHOLD = 2**31 - 1
_DEFAULT_THRESHOLD = 2**25  # the highest value that glibc itself sets for mmap
# torch 2.4 has only the second
OutOfMemoryError = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def _set_thresholds(trim, mmap):
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(_M_MMAP_THRESHOLD, mmap)
            mallopt(_M_TRIM_THRESHOLD, trim)


def disable_malloc_trim():
    """Keep freed memory in the process for its next tensors (glibc only).

    glibc returns a freed block of more than 32 MiB to the system, which then has to clear the pages
    of the next block. docs/performance.md has the gain.
    """
    _set_thresholds(trim=_MAX_THRESHOLD, mmap=_MAX_THRESHOLD)


def restore_malloc_defaults():
    """Undo `disable_malloc_trim`, to measure its gain."""
    _set_thresholds(trim=2 * _DEFAULT_THRESHOLD, mmap=_DEFAULT_THRESHOLD)


def is_out_of_memory(error):
    """Return whether an error means that memory of the CPU or accelerator is exhausted.

    torch has no type for it on the CPU; cuDNN and cuBLAS report it in a RuntimeError.
    """
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("allocate memory", "out of memory", "ALLOC_FAILED")
    )


def is_accelerator_out_of_memory(error):
    """Return whether the memory of an accelerator is exhausted, so that smaller tiles may fit."""
    return isinstance(error, OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def available_bytes(path="/proc/meminfo"):
    """Return the main memory that is available, or None if Linux does not tell."""
    try:
        with open(path, encoding="utf-8") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
