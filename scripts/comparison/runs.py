"""Experiments and their tests: a row for each way of testing.

How a test was made shows in a suffix of the label, see `checkpoint.metrics.variant`: "+" for
self-ensemble, "+tiles", "+bf16", "+BD".
"""

import contextlib
import csv
import difflib
import math
import os
import re

from checkpoint.config import read_config, recorded_pre_train
from checkpoint.metrics import (
    finite_mean,
    has_same_images,
    read_metrics,
    results_dir,
    scores_file,
    tests_of_training,
    variant,
)
from checkpoint.state import read_state
from data.datasets import DEMO_SETS
from runtime.files import UserError, print_error

SAME_PSNR = 0.005  # dB; HR of 16 bits is saved with 8


def is_same_psnr(a, b, tolerance=SAME_PSNR):
    """Return whether two PSNR are of the same image; None stands for no finite PSNR."""
    return a is b if None in (a, b) else math.isclose(a, b, rel_tol=0, abs_tol=tolerance)


def printable(text):
    """Return text as one line of valid UTF-8: names of files may be any bytes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", " ".join(text.split()))


def read_experiment(folder, needs_tests):
    """Return the lines of metrics.jsonl; without `needs_tests`, saved images alone will do."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        return read_metrics(path, print_error)
    if not needs_tests and any(folder.glob("results-*")):
        return []  # upscaling records no test
    found = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = [other.name for other in found if (other / "metrics.jsonl").is_file()]
    near = difflib.get_close_matches(folder.name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"no such experiment: {folder} (no metrics.jsonl){hint}")


class Run:
    """An experiment folder: flags, epochs, a row for each way of testing."""

    def __init__(self, folder, label=None, best=False, needs_tests=True):
        """Read metrics.jsonl and config.txt; show the last test of each set, or the best one."""
        self.folder, self.has_own_label = folder, label is not None
        self.label = printable(label or folder.name.removeprefix("quickstart_"))
        self.lines = read_experiment(folder, needs_tests)
        self.flags = {}  # of config.txt, as text
        with contextlib.suppress(UserError):  # it cannot be read
            words = read_config(folder / "config.txt")
            self.flags = dict(re.findall(r"^--(\w+)=(.*)$", "\n".join(words), re.M))
            self.flags["pre_train"] = recorded_pre_train(folder / "config.txt")
        self.is_luma = self.flags.get("n_colors") == "1"
        self.trained = {line["epoch"] for line in self.lines if "loss" in line}
        tests = [line for line in self.lines if line.get("dataset")]
        self.tested = {line["epoch"] for line in tests}
        # a training that was stopped in its first epoch has epoch 0
        self.was_trained = bool(self.trained) or 0 in self.tested
        self.epochs = self._number("epochs")
        # tests alone do not know the --seed of their weights
        self.seed = self._number("seed") if self.was_trained else None
        self.best = best and bool(self.trained)
        self.rows = self._find_rows(tests)

    def _number(self, name):
        text = self.flags.get(name, "")
        return int(text) if text.isdigit() else None

    def _find_rows(self, tests):
        by_suffix = {}  # suffix: {(dataset, scale): line}
        epoch = self._best_epoch() if self.best else None
        for line in tests:
            shown = by_suffix.setdefault(variant(line), {})
            key = (line["dataset"], line["scale"])
            if not self.best:
                shown[key] = line  # the last
            elif line["epoch"] == epoch:
                shown.setdefault(key, line)  # the training's own, not a later test
        return [Row(self, suffix, shown) for suffix, shown in sorted(by_suffix.items())]

    def _best_epoch(self):
        """Return the epoch of model_best.pt: that of the training state, or of the best PSNR."""
        with contextlib.suppress(UserError, OSError):
            epoch = read_state(self.folder / "model/state.pt")["best"]["epoch"]
            if epoch in self.tested:
                return epoch
        tests, names = tests_of_training(self.lines), self.flags.get("data_test", "").split("+")
        sets = [lines for key, lines in tests.items() if key[0] in names] or list(tests.values())
        epochs = sorted(self.trained.intersection(*sets))
        # a resume on other images begins anew
        epochs = [e for e in epochs if all(has_same_images(s[e], s[epochs[-1]]) for s in sets)]
        # the first of equal ones
        return max(epochs, key=lambda e: sum(lines[e]["psnr"] or 0 for lines in sets), default=None)

    def picture_rows(self, key):
        """Return the rows with saved SR images of a set: at least one row."""
        rows = self.rows or [Row(self, "", {})]
        return [row for row in rows if row.sr_paths(key)] or rows[:1]

    @property
    def reason_unfinished(self):
        """Why --finished refuses the run, as text; "" if it does not."""
        if not self.tested:
            return " (no test)"
        if self.was_trained and self.epochs is None:
            return " (unknown --epochs: config.txt cannot be read)"
        return next((row.mark for row in self.rows if row.mark), "")

    def epoch_mark(self, lines):
        """Return " (epoch E of N)" for tests before the last epoch, else ""."""
        shown = sorted({line["epoch"] for line in lines})
        if not self.was_trained or not shown:
            return ""
        last, is_finished = max(self.trained | self.tested), max(self.tested) >= (self.epochs or 0)
        if (self.best or shown == [last]) and is_finished:
            return ""
        numbers = ", ".join(map(str, shown))
        return f" (epoch{'s' if len(shown) > 1 else ''} {numbers} of {self.epochs or last})"


class Row:
    """The tests of an experiment that were made in one way: {(dataset, scale): test line}."""

    notes = ()

    def __init__(self, run, suffix, tests):
        self.run, self.suffix, self.tests = run, suffix, tests
        self.folder, self.seed, self.is_luma = run.folder, run.seed, run.is_luma
        self.is_bicubic = run.flags.get("model") == "Bicubic"
        self.family = run  # what the rows of an experiment have in common
        self.rows = [self]  # as a group of one
        truth = [line for key, line in tests.items() if key[0] not in DEMO_SETS]
        self.mark = run.epoch_mark(truth)  # of an epoch that is not the last
        self._scores = {}  # (dataset, scale): the result of `scores`

    @property
    def label(self):
        """Name of the row, with the suffix and the mark."""
        return self.run.label + self.suffix + self.mark

    def scores(self, key):
        """Return {image: {"psnr": ..., "ssim": ...}} of a test; None if they were not kept."""
        if key not in self._scores:
            self._scores[key] = self._find_scores(key) if key in self.tests else None
        return self._scores[key]

    def _find_scores(self, key):
        # a test of the best weights that was repeated has written the scores of the last test
        for best in (True, False) if self.run.best else (False,):
            found = read_scores(scores_file(self.folder, self.tests[key], best))
            mean = finite_mean(scores["psnr"] for scores in (found or {}).values())
            if found and is_same_psnr(mean, self.tests[key]["psnr"], 1e-10):
                return found
        return None

    def sr_paths(self, key):
        """Return {image: path} of the SR images that a test with --save_results wrote."""
        folder, end = results_dir(self.folder, key[0], self.suffix), f"_x{key[1]}_SR.png"
        return {path.name.removesuffix(end): path for path in sorted(folder.glob(f"*{end}"))}


def read_scores(path):
    """Return {image: {"psnr": ..., "ssim": ...}} of a file of per_image/; None without a table."""

    def name_of(text):  # tests write a byte that is not UTF-8 as \udcXX
        return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), text)

    if not path.is_file():
        return None
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = {
                name_of(row.pop("image")): {name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            }
        if not found or any(not {"psnr", "ssim"} <= set(scores) for scores in found.values()):
            raise ValueError("a column is missing")
    except (KeyError, TypeError, ValueError) as error:
        print_error(f"WARNING: {path}: must be a table of image, psnr, ssim ({error})")
        return None
    return found


def rows_of(runs):
    """Return the rows of several runs, without sets without ground truth if there are others."""
    rows = [row for run in runs for row in run.rows]
    if any(key[0] not in DEMO_SETS for row in rows for key in row.tests):
        for row in rows:
            row.tests = {key: line for key, line in row.tests.items() if key[0] not in DEMO_SETS}
    return [row for row in rows if row.tests]


def name_apart(runs, dir_experiment):
    """Replace a label that runs of different folders share by their paths."""
    folders = {}  # label: folders
    for run in runs:
        folders.setdefault(run.label, set()).add(run.folder.resolve())
    for run in runs:
        if not run.has_own_label and len(folders[run.label]) > 1:
            run.label = printable(os.path.relpath(run.folder, dir_experiment))
