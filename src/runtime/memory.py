"""How the C library hands out memory on the CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MOST = 2**31 - 1
_DEFAULT = 2**25  # what glibc's own threshold of mmap rises to


def _set_thresholds(trim, mmap):
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(_M_MMAP_THRESHOLD, mmap)
            mallopt(_M_TRIM_THRESHOLD, trim)


def disable_malloc_trim():
    """Let the process keep what it frees, for its next tensors.

    glibc gives a block of more than 32 MiB back to the system when it is freed, and the next one is made of pages that the
    system has to clear first, 160,000 of them in a training step: a fifth of the time of a step of EDSR and a quarter of one
    with PCL-SR went into that. Where the C library is another one, nothing is changed.
    """
    _set_thresholds(trim=_MOST, mmap=_MOST)


def restore_malloc_defaults():
    """Let glibc do as it does by default, to time what `disable_malloc_trim` is worth."""
    _set_thresholds(trim=2 * _DEFAULT, mmap=_DEFAULT)
