"""metrics.jsonl: one line for each test of a set, and one for each training epoch.

A test line has epoch, dataset, scale, psnr (dB), ssim, images (their number), images_id (16 hex
digits of a sha256 over shapes and pixels of LR and HR), and how it was made: the keys of `PLAIN`,
which are the values of a line without them.
"""

import contextlib
import json
import math

from runtime.files import UserError, shorten

PLAIN = {"self_ensemble": False, "chop": False, "precision": "single", "degradation": "BI"}
PLAIN |= {"test_only": False}


def is_number(value, kinds=(int, float)):
    """Return whether a value of a file is a finite number of reasonable size."""
    is_kind = isinstance(value, kinds) and not isinstance(value, bool)
    return is_kind and abs(value) <= 1e30  # False for nan


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
    """Return the lines of metrics.jsonl as dicts, none of a missing file, without damaged ones.

    Test lines have the keys of `PLAIN`. `warn` is called with a warning about damaged lines.
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
    n_damaged = len(written) - len(lines)
    if n_damaged:
        verb = "line is" if n_damaged == 1 else "lines are"
        warn(f"WARNING: {path}: {n_damaged} damaged {verb} left out")
    return [PLAIN | line if line.get("dataset") else line for line in lines]


def variant(line):
    """Return the suffix for the way a test was made: "" for a plain one, or "++tiles+bf16+BD"."""
    # a plus sign separates data sets in flags, so that no name of a set contains one
    suffix = ("+" if line["self_ensemble"] else "") + ("+tiles" if line["chop"] else "")
    keys = ("precision", "degradation")
    return suffix + "".join(f"+{line[key]}" for key in keys if line[key] != PLAIN[key])


def tests_of_training(lines):
    """Return the tests that a training made after its epochs: {(dataset, scale): {epoch: line}}.

    Lines of --test_only do not count; in files of before they are not marked, but later ones.
    """
    tests = {}
    for line in lines:
        if line.get("dataset") and not line.get("test_only"):
            key = line["dataset"], line["scale"]
            tests.setdefault(key, {}).setdefault(line["epoch"], line)
    return tests


def has_same_images(line, other):
    """Return whether two test lines are of the same pixels, as far as they say."""
    ids = line.get("images_id"), other.get("images_id")
    return None in ids or ids[0] == ids[1]


def set_file_name(dataset):
    """Return a data set's name as part of a file name, unique for each set."""
    return shorten(dataset.replace("%", "%25").replace("/", "%2F"), 210)


def results_dir(folder, dataset, suffix=""):
    """Return the folder of a data set's SR images; `suffix`: see `variant`."""
    return folder / f"results-{set_file_name(dataset)}{suffix}"


def scores_file(folder, line, best=False):
    """Return the CSV with the scores of each image of the last test, or of model_best.pt's."""
    name = f"{set_file_name(line['dataset'])}_x{line['scale']}{variant(line)}.csv"
    return folder / "per_image" / ("best" if best else "") / name


def finite_mean(values):
    """Return the mean of the finite values; None if there are none."""
    # an image that equals HR has an infinite PSNR, a very small one no SSIM: neither hides the rest
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
