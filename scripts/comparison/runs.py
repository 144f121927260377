"""Experiments and their tests: a row for each way of testing.

How a test was made shows in a suffix of the label, see `checkpoint.metrics.variant`: "+" for
self-ensemble, "+tiles", "+bf16".
"""

import contextlib
import csv
import math
import os
import re
import sys

from checkpoint.config import read_config
from checkpoint.metrics import PLAIN, finite_mean, read_metrics, results_dir, scores_file, variant
from checkpoint.state import read_state
from data.datasets import DEMO_SETS
from runtime.files import UserError


def warn(text):
    """Print a warning to stderr, apart from the tables."""
    print(text, file=sys.stderr)


def read_experiment(folder):
    """Return the lines of metrics.jsonl of an experiment.

    Raises:
        UserError: the file is missing.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"no such experiment: {folder} (no metrics.jsonl)")
    return read_metrics(path, warn)


def best_epoch(tests, trained, data_test=()):
    """Return the epoch of the best mean PSNR, as a training chooses it.

    Args:
        tests: lines of metrics.jsonl with a data set.
        trained: set of epochs.
        data_test: names of the sets that the training tests on, as far as they are known.
    """
    first = {}  # epoch: {(dataset, scale): PSNR}; later tests of an epoch are tests alone
    for line in tests:
        scores = first.setdefault(line["epoch"], {})
        scores.setdefault((line["dataset"], line["scale"]), line["psnr"])
    epochs = sorted(trained & set(first))
    best, best_psnr, before = None, -math.inf, {}
    for i, epoch in enumerate(epochs):
        beside = {key for e in epochs[max(i - 1, 0) : i + 2] if e != epoch for key in first[e]}
        # a set that neither the training nor the epochs beside it know is of a test alone
        own = {k: v for k, v in first[epoch].items() if k in beside or k[0] in data_test}
        own = own or first[epoch]
        if epoch == epochs[-1] and not set(before) <= set(own):
            break  # its test was cut or has not ended
        before, psnrs = own, [psnr for psnr in own.values() if psnr is not None]
        mean = sum(psnrs) / len(psnrs) if psnrs else -math.inf
        if mean > best_psnr or best_psnr == -math.inf:
            best, best_psnr = epoch, mean
    return best


class Run:
    """An experiment folder: flags, epochs, a row for each way of testing."""

    def __init__(self, folder, label=None, best=False, needs_tests=True):
        """Read metrics.jsonl and config.txt.

        Args:
            folder: a Path.
            label: name in tables and figures; None takes that of the folder.
            best: use the tests of the epoch of model_best.pt; otherwise each set's last test.
            needs_tests: refuse a folder without metrics.jsonl. Upscaling writes none.

        Raises:
            UserError: the folder is not an experiment.
        """
        self.folder = folder
        self.has_own_label = label is not None
        self.label = label or folder.name.removeprefix("quickstart_")
        may_lack_tests = not needs_tests and any(folder.glob("results-*"))
        has_tests = (folder / "metrics.jsonl").is_file()
        lines = [] if may_lack_tests and not has_tests else read_experiment(folder)
        self.trained = {line["epoch"] for line in lines if "loss" in line}
        self.best = best and bool(self.trained)
        self.flags = self._read_flags()
        tests = [line for line in lines if line.get("dataset")]
        self.tested = {line["epoch"] for line in tests}
        by_suffix = {}  # suffix: {(dataset, scale): line}
        epoch = self._best_epoch(tests) if self.best else None
        for line in tests:
            shown = by_suffix.setdefault(variant(line), {})
            key = (line["dataset"], line["scale"])
            if not self.best:
                shown[key] = line  # the last
            elif line["epoch"] == epoch:
                shown.setdefault(key, line)  # the training's own, not a later test
        self.rows = [Row(self, suffix, shown) for suffix, shown in sorted(by_suffix.items())]

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
    def is_luma(self):
        """Whether the images are Y of --n_colors 1."""
        return self.flags.get("n_colors") == "1"

    @property
    def was_trained(self):
        """Whether the run is a training; one stopped in its first epoch has epoch 0."""
        return bool(self.trained) or 0 in self.tested

    @property
    def seed(self):
        """The --seed of the training, or None: tests do not know that of their weights."""
        return self._number("seed") if self.was_trained else None

    @property
    def epochs(self):
        """The epochs that the run is to be trained for, or None."""
        return self._number("epochs")

    @property
    def is_unfinished(self):
        """Whether the run was trained and has not tested the last of its --epochs."""
        is_known = self.was_trained and self.epochs is not None
        return is_known and max(self.tested, default=0) < self.epochs

    @property
    def reason_unfinished(self):
        """Why --finished refuses the run, as text; "" if it does not."""
        if not self.tested:
            return " (no test)"
        if self.was_trained and self.epochs is None:
            return " (unknown --epochs: config.txt cannot be read)"
        if self.is_unfinished:
            return f" (epoch {max(self.tested, default=0)} of {self.epochs})"
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
    """The tests of an experiment that were made in one way.

    Attributes:
        run: Run.
        suffix: how the tests were made, see `variant`.
        tests: {(dataset, scale): line of metrics.jsonl}.
        mark: text about an epoch that is not the last, or "".
    """

    def __init__(self, run, suffix, tests):
        self.run, self.suffix, self.tests = run, suffix, tests
        truth = [line for key, line in tests.items() if key[0] not in DEMO_SETS]
        self.mark = run.epoch_mark(truth) if truth else ""
        self.folder = run.folder
        self._scores = {}  # (dataset, scale): the result of `scores`

    @property
    def label(self):
        """Name of the row, with the suffix and the mark."""
        return self.run.label + self.suffix + self.mark

    @property
    def family(self):
        """What the rows of an experiment have in common."""
        return self.run

    @property
    def is_luma(self):
        """Whether the images are Y."""
        return self.run.is_luma

    @property
    def how(self):
        """How the tests were made: {"self_ensemble", "chop", "precision"}."""
        line = next(iter(self.tests.values()), PLAIN)
        return {name: line[name] for name in PLAIN}

    @property
    def is_bicubic(self):
        """Whether the row is of --model Bicubic."""
        return self.run.flags.get("model") == "Bicubic"

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
                warn(f"WARNING: {error}")
                continue
            if found and self._is_of_test(found, self.tests[key]["psnr"]):
                return found
        return None

    @staticmethod
    def _is_of_test(scores, psnr):
        """Return whether scores of images have the mean PSNR that a test has recorded."""
        mean = finite_mean(found["psnr"] for found in scores.values())
        if mean is None or psnr is None:
            return mean is psnr
        return math.isclose(mean, psnr, rel_tol=1e-12)

    def results(self, key):
        """Return the folder of the SR images of a set."""
        return results_dir(self.folder, key[0], self.suffix)

    def sr_paths(self, key):
        """Return {image: path} of the SR images that a test with --save_results wrote."""
        end = f"_x{key[1]}_SR.png"
        return {p.name.removesuffix(end): p for p in sorted(self.results(key).glob(f"*{end}"))}


def read_scores(path):
    """Return {image: {"psnr": ..., "ssim": ...}} of a file of per_image/.

    Raises:
        UserError: the file is not such a table.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = {
                row.pop("image"): {name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            }
        if not found or any(not {"psnr", "ssim"} <= set(scores) for scores in found.values()):
            raise ValueError("a column is missing")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: must be a table of image, psnr, ssim ({error})") from error
    return found


def rows_of(runs):
    """Return the rows of several runs.

    Sets without ground truth are left out if there are others.
    """
    rows = [row for run in runs for row in run.rows]
    if any(key[0] not in DEMO_SETS for row in rows for key in row.tests):
        for row in rows:
            row.tests = {key: line for key, line in row.tests.items() if key[0] not in DEMO_SETS}
    return [row for row in rows if row.tests]


def name_apart(runs, dir_experiment):
    """Replace a label that runs of different folders share by their paths."""
    ambiguous = [
        run
        for run in runs
        if not run.has_own_label
        and len({other.folder.resolve() for other in runs if other.label == run.label}) > 1
    ]
    for run in ambiguous:
        run.label = os.path.relpath(run.folder, dir_experiment)
