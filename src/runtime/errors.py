"""The exception for errors that a user can fix, and how it is printed."""

import contextlib
import os
import sys


class UserError(Exception):
    """Bad flags, files, folders or checkpoints, a full disk, a broken network.

    The message names the flag or the file and the fix; main.py prints it without a traceback.
    """


def bullet_list(lines, limit=20):
    """Return lines as an indented list; after `limit` lines, the number of the rest."""
    lines = list(lines)
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  - {line}" for line in lines[:limit] + more)


def print_error(text):
    """Print to stderr; a closed stderr is not a reason to fail."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            # Python flushes stderr once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
