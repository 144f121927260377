"""The saved training state: contents, random generators, and checks when it is read."""

import math
import random

import numpy as np
import torch

from model.weights import check_tensors, load_file
from runtime.files import UserError, atomic_write

# name of each entry and its type
STATE_SCHEMA = {
    "net": dict,
    "optimizer": dict,
    "loss": dict,
    "scaler": dict,
    "progress": dict,
    "random": dict,
    "best": dict,
    "fixed": dict,
    "epoch": int,
    "step": int,
    "last_loss": float,
    "precision": list,
    "ema": (dict, type(None)),
}
MAX_NUMBER = 1e30


def save_tensors(path, value):
    """Save a dict of tensors and plain values with torch.save, atomically."""
    with atomic_write(path) as file:
        torch.save(value, file)


def random_states():
    """Return the states of the generators of torch, CUDA, numpy and Python."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, keys.tolist(), *rest],
        "python": list(random.getstate()),
    }


def set_random_states(states):
    """Restore the generators from the result of `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def is_number(value, kinds=(int, float)):
    """Return whether a value of a file is a finite number of reasonable size."""
    is_kind = isinstance(value, kinds) and not isinstance(value, bool)
    return is_kind and abs(value) <= MAX_NUMBER  # False for nan


def finite_or_none(value):
    """Return a value as JSON can hold it: None for nan and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wrong_entries(state):
    wrong = [name for name, kind in STATE_SCHEMA.items() if not isinstance(state[name], kind)]
    for name in ("epoch", "step"):
        if name not in wrong and not (is_number(state[name]) and state[name] >= 0):
            wrong.append(name)
    best = state["best"]
    if "best" not in wrong and not (
        is_number(best.get("epoch"), int)
        and (best.get("psnr", "") is None or is_number(best["psnr"]))
    ):
        wrong.append("best")
    if "progress" not in wrong:
        sums, counts = (state["progress"].get(name) for name in ("sums", "counts"))
        are_dicts = isinstance(sums, dict) and isinstance(counts, dict) and set(sums) == set(counts)
        numbers = [*sums.values(), *counts.values()] if are_dicts else [None]
        if not all(map(is_number, numbers)) or 0 in counts.values():
            wrong.append("progress")
    return wrong


def read_state(path):
    """Read a training state."""
    state = load_file(path)
    if not isinstance(state, dict) or not set(state) >= set(STATE_SCHEMA):
        raise UserError(f"{path} is not a training state of this program")
    wrong = _wrong_entries(state)
    if wrong:
        raise UserError(f"{path}: is damaged: {', '.join(wrong)}")
    check_tensors(state, path)
    return state
