"""Environment variables that libraries read."""

import os


def use_file_backend():
    """Make matplotlib draw to files; call it before its import.

    A notebook's MPLBACKEND may name a module that this environment does not have.
    """
    os.environ["MPLBACKEND"] = "Agg"
