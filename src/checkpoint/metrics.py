"""metrics.jsonl: one line for each test of a set, and one for each training epoch.

A test line has epoch, dataset, scale, psnr (dB), ssim, images, and how it was made: self_ensemble
and chop (booleans), precision. A line without these three was made without self-ensemble and tiles, in
single precision.
"""

import contextlib
import json

from checkpoint.state import is_number
from runtime.errors import UserError

PLAIN = {"self_ensemble": False, "chop": False, "precision": "single"}


def is_metric(line):
    """Return whether a value is a line that a test or a training epoch writes."""
    if not isinstance(line, dict) or not is_number(line.get("epoch"), int):
        return False
    losses, dataset = line.get("loss", {}), line.get("dataset", "")
    if not isinstance(losses, dict) or not isinstance(dataset, str):
        return False
    if dataset and not (is_number(line.get("scale"), int) and "psnr" in line):
        return False
    numbers = [*losses.values(), line.get("psnr"), line.get("ssim")]
    return all(number is None or is_number(number) for number in numbers)


def read_metrics(path, warn=print):
    """Return the lines of metrics.jsonl, a list of dict; test lines have the keys of `PLAIN`.

    Args:
        path: the file; a missing one has no lines.
        warn: function that takes a warning about damaged lines, which are left out.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    written, lines = [part for part in text.split("\n") if part], []
    for part in written:
        with contextlib.suppress(ValueError, RecursionError):  # a line that a crash has cut
            lines.append(json.loads(part))
    lines = [line for line in lines if is_metric(line)]
    if len(lines) < len(written):
        warn(f"WARNING: {path}: {len(written) - len(lines)} damaged lines are left out")
    return [PLAIN | line if line.get("dataset") else line for line in lines]


def variant(line):
    """Return the suffix that marks how a test was made: "" for a plain one, "+" for self-ensemble.

    Tiles add "_tiles", a precision other than single adds its name: "+_tiles_bf16".
    """
    precision = line.get("precision", "single")
    suffix = "+" if line.get("self_ensemble") else ""
    suffix += "_tiles" if line.get("chop") else ""
    return suffix + (f"_{precision}" if precision != "single" else "")


def tests_of_training(lines):
    """Return the first test of each epoch: {(dataset, scale): {epoch: line}}.

    Training tests each set once after an epoch; later lines of the epoch are separate tests.
    """
    tests = {}
    for line in lines:
        if line.get("dataset") and line["psnr"] is not None:
            key = line["dataset"], line["scale"]
            tests.setdefault(key, {}).setdefault(line["epoch"], line)
    return tests


def set_file_name(dataset):
    """Return the name of a data set as a part of a file name, different for different names."""
    return dataset.replace("%", "%25").replace("/", "%2F")
