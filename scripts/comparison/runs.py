"""Experiments and their tests: a row for each way of testing.

How a test was made shows in a suffix of the label, see `checkpoint.metrics.variant`: "+" for
self-ensemble, "+tiles", "+bf16".
"""

import contextlib
import csv
import difflib
import math
import os
import re

from checkpoint.config import read_config
from checkpoint.metrics import (
    PLAIN,
    finite_mean,
    has_same_images,
    read_metrics,
    results_dir,
    scores_file,
    variant,
)
from checkpoint.state import read_state
from data.datasets import DEMO_SETS
from runtime.files import UserError, print_error


def printable(text):
    """Return text as one line of valid UTF-8: names of files may be any bytes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", " ".join(text.split()))


def read_experiment(folder):
    """Return the lines of metrics.jsonl of an experiment."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        return read_metrics(path, print_error)
    found = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = [other.name for other in found if (other / "metrics.jsonl").is_file()]
    near = difflib.get_close_matches(folder.name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"no such experiment: {folder} (no metrics.jsonl){hint}")


def best_epoch(tests, trained, data_test=()):
    """Return the epoch of the best mean PSNR of test lines, as a training chooses it.

    `data_test` are the names of the sets that the training tests on, as far as they are known.
    """
    first = {}  # epoch: {(dataset, scale): line}; later tests of an epoch are tests alone
    for line in tests:
        lines = first.setdefault(line["epoch"], {})
        lines.setdefault((line["dataset"], line["scale"]), line)
    epochs = sorted(trained & set(first))
    best, best_psnr, before, kept = None, -math.inf, {}, {}
    for i, epoch in enumerate(epochs):
        beside = {key for e in epochs[max(i - 1, 0) : i + 2] if e != epoch for key in first[e]}
        # a set that neither the training nor the epochs beside it know is of a test alone
        own = {k: v for k, v in first[epoch].items() if k in beside or k[0] in data_test}
        own = own or first[epoch]
        if epoch == epochs[-1] and not set(before) <= set(own):
            break  # its test was cut or has not ended
        if not (set(own) == set(kept) and all(has_same_images(own[k], kept[k]) for k in own)):
            best_psnr = -math.inf  # means over other sets or images are not comparable
        before, psnrs = own, [line["psnr"] for line in own.values() if line["psnr"] is not None]
        mean = sum(psnrs) / len(psnrs) if psnrs else -math.inf
        if mean > best_psnr or best_psnr == -math.inf:
            best, best_psnr, kept = epoch, mean, own
    return best


class Run:
    """An experiment folder: flags, epochs, a row for each way of testing."""

    def __init__(self, folder, label=None, best=False, needs_tests=True):
        """Read metrics.jsonl and config.txt; use the last test of each set, or those of the best.

        Without `needs_tests`, a folder without metrics.jsonl is allowed: upscaling writes none.
        """
        self.folder, self.has_own_label = folder, label is not None
        self.label = printable(label or folder.name.removeprefix("quickstart_"))
        may_lack_tests = not needs_tests and any(folder.glob("results-*"))
        has_tests = (folder / "metrics.jsonl").is_file()
        self.lines = [] if may_lack_tests and not has_tests else read_experiment(folder)
        self.trained = {line["epoch"] for line in self.lines if "loss" in line}
        tests = [line for line in self.lines if line.get("dataset")]
        self.tested = {line["epoch"] for line in tests}
        # a training that was stopped in its first epoch has epoch 0
        self.was_trained = bool(self.trained) or 0 in self.tested
        self.flags = self._read_flags()
        self.is_luma = self.flags.get("n_colors") == "1"
        self.epochs = self._number("epochs")
        # tests alone do not know the --seed of their weights
        self.seed = self._number("seed") if self.was_trained else None
        self.is_unfinished = (
            self.was_trained and self.epochs is not None and max(self.tested or [0]) < self.epochs
        )
        self.best = best and bool(self.trained)
        self.rows = self._find_rows(tests)

    def _find_rows(self, tests):
        by_suffix = {}  # suffix: {(dataset, scale): line}
        epoch = self._best_epoch(tests) if self.best else None
        for line in tests:
            shown = by_suffix.setdefault(variant(line), {})
            key = (line["dataset"], line["scale"])
            if not self.best:
                shown[key] = line  # the last
            elif line["epoch"] == epoch:
                shown.setdefault(key, line)  # the training's own, not a later test
        return [Row(self, suffix, shown) for suffix, shown in sorted(by_suffix.items())]

    def picture_rows(self, key):
        """Return the rows with saved SR images of a set: at least one row."""
        rows = self.rows or [Row(self, "", {})]
        if key[1] is None:
            return rows
        return [row for row in rows if row.sr_paths(key)] or rows[:1]

    def _best_epoch(self, tests):
        """Return the epoch of model_best.pt: that of the training state, or as it is chosen."""
        with contextlib.suppress(UserError, OSError):
            epoch = read_state(self.folder / "model/state.pt")["best"]["epoch"]
            if epoch in self.tested:
                return epoch
        return best_epoch(tests, self.trained, self.flags.get("data_test", "").split("+"))

    def _read_flags(self):
        """Return the flags of config.txt as {name: text}; {} if it cannot be read."""
        with contextlib.suppress(UserError):
            words = read_config(self.folder / "config.txt")
            return dict(re.findall(r"^--(\w+)=(.*)$", "\n".join(words), re.M))
        return {}

    def _number(self, name):
        text = self.flags.get(name, "")
        return int(text) if text.isdigit() else None

    @property
    def reason_unfinished(self):
        """Why --finished refuses the run, as text; "" if it does not."""
        if not self.tested:
            return " (no test)"
        if self.was_trained and self.epochs is None:
            return " (unknown --epochs: config.txt cannot be read)"
        if self.is_unfinished:
            return f" (epoch {max(self.tested)} of {self.epochs})"
        return next((row.mark for row in self.rows if row.mark), "")

    def epoch_mark(self, lines):
        """Return " (epoch E of N)" for tests before the last epoch, else ""."""
        shown, last = sorted({line["epoch"] for line in lines}), max(self.trained | self.tested)
        is_last = self.best or shown == [last]
        if not self.was_trained or not shown or (is_last and not self.is_unfinished):
            return ""
        numbers = ", ".join(map(str, shown))
        return f" (epoch{'s' if len(shown) > 1 else ''} {numbers} of {self.epochs or last})"


class Row:
    """The tests of an experiment that were made in one way: {(dataset, scale): test line}.

    `mark` is a text about an epoch that is not the last, or "".
    """

    def __init__(self, run, suffix, tests):
        self.run, self.suffix, self.tests = run, suffix, tests
        truth = [line for key, line in tests.items() if key[0] not in DEMO_SETS]
        self.mark = run.epoch_mark(truth) if truth else ""
        self.folder, self.is_luma = run.folder, run.is_luma
        self.family = run  # what the rows of an experiment have in common
        self.is_bicubic = run.flags.get("model") == "Bicubic"
        self._scores = {}  # (dataset, scale): the result of `scores`

    @property
    def label(self):
        """Name of the row, with the suffix and the mark."""
        return self.run.label + self.suffix + self.mark

    @property
    def how(self):
        """How the tests were made: {"self_ensemble", "chop", "precision"}."""
        line = next(iter(self.tests.values()), PLAIN)
        return {name: line[name] for name in PLAIN}

    def scores(self, key):
        """Return {image: {"psnr": ..., "ssim": ...}} of a test; None if they were not kept."""
        if key not in self._scores:
            self._scores[key] = self._find_scores(key) if key in self.tests else None
        return self._scores[key]

    def scores_path(self, key, best=None):
        """Return the path of the scores of the images of a test."""
        return scores_file(self.folder, self.tests[key], self.run.best if best is None else best)

    def _find_scores(self, key):
        # a test of the best weights that was repeated has written the scores of the last test
        for best in sorted({self.run.best, False}, reverse=True):
            path = self.scores_path(key, best)
            try:
                found = read_scores(path) if path.is_file() else None
            except UserError as error:
                print_error(f"WARNING: {error}")
                continue
            if found:
                mean = finite_mean(scores["psnr"] for scores in found.values())
                psnr = self.tests[key]["psnr"]
                is_known = None not in (mean, psnr)
                if math.isclose(mean, psnr, rel_tol=1e-12) if is_known else mean is psnr:
                    return found
        return None

    def results(self, key):
        """Return the folder of the SR images of a set."""
        return results_dir(self.folder, key[0], self.suffix)

    def sr_paths(self, key):
        """Return {image: path} of the SR images that a test with --save_results wrote."""
        end = f"_x{key[1]}_SR.png"
        return {p.name.removesuffix(end): p for p in sorted(self.results(key).glob(f"*{end}"))}


def read_scores(path):
    """Return {image: {"psnr": ..., "ssim": ...}} of a file of per_image/."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = {
                _name_of_file(row.pop("image")): {n: float(value) for n, value in row.items()}
                for row in csv.DictReader(file)
            }
        if not found or any(not {"psnr", "ssim"} <= set(scores) for scores in found.values()):
            raise ValueError("a column is missing")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: must be a table of image, psnr, ssim ({error})") from error
    return found


def _name_of_file(text):
    """Return the name of an image; tests write a byte that is not UTF-8 as \\udcXX."""
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), text)


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
