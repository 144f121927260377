"""Experiments and their tests. Tests that were made in another way are rows of their own.

How a test was made shows in a suffix of the label, see `checkpoint.metrics.variant`: "+" for
self-ensemble, "+tiles", "+bf16".
"""

import contextlib
import csv
import math
import re
import sys

from checkpoint.config import read_config
from checkpoint.metrics import PLAIN, finite_mean, read_metrics, results_dir, scores_file, variant
from data.datasets import DEMO_SETS
from runtime.errors import UserError


def warn(text):
    """Print a warning to stderr, apart from the tables."""
    print(text, file=sys.stderr)


def read_experiment(folder):
    """Return the lines of metrics.jsonl of an experiment.

    Raises:
        UserError: there is no such file.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"no such experiment: {folder} (no metrics.jsonl)")
    return read_metrics(path, warn)


def best_epoch(tests, trained):
    """Return the epoch of the best mean PSNR over the sets that every trained epoch was tested on.

    Args:
        tests: lines of metrics.jsonl with a data set.
        trained: set of epochs.
    """
    first = {}  # epoch: {(dataset, scale): PSNR}; later tests of an epoch are tests alone
    for line in tests:
        scores = first.setdefault(line["epoch"], {})
        scores.setdefault((line["dataset"], line["scale"]), line["psnr"])
    epochs = sorted(trained & set(first))
    common = set.intersection(*(set(first[epoch]) for epoch in epochs)) if epochs else set()

    def mean(epoch):
        rated = [first[epoch][key] for key in common if first[epoch][key] is not None]
        return sum(rated) / len(rated) if rated else -math.inf

    return max(epochs, key=mean, default=None)


class Run:
    """An experiment folder: its flags, its epochs, and a row for each way of testing it."""

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
        self.label = label or folder.name.removeprefix("quickstart_")
        may_lack_tests = not needs_tests and any(folder.glob("results-*"))
        has_tests = (folder / "metrics.jsonl").is_file()
        lines = [] if may_lack_tests and not has_tests else read_experiment(folder)
        self.trained = {line["epoch"] for line in lines if "loss" in line}
        self.best = best and bool(self.trained)
        self.flags = self._read_flags()
        tests = [line for line in lines if line.get("dataset")]
        by_suffix = {}  # suffix: {(dataset, scale): line}
        epoch = best_epoch(tests, self.trained) if self.best else None
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
        return [row for row in rows if row.sr_paths(key)] or rows[:1]

    def _read_flags(self):
        """Return the flags of config.txt as {name: text}; {} if it cannot be read."""
        with contextlib.suppress(UserError):
            words = read_config(self.folder / "config.txt")
            return dict(re.findall(r"^--(\w+)=(.*)$", "\n".join(words), re.M))
        return {}

    @property
    def seed(self):
        """The --seed of the run, or None."""
        text = self.flags.get("seed", "")
        return int(text) if text.isdigit() else None

    @property
    def epochs(self):
        """The epochs that the run is to be trained for, or None."""
        text = self.flags.get("epochs", "")
        return int(text) if text.isdigit() else None

    @property
    def is_unfinished(self):
        """Whether the run was trained for fewer epochs than its --epochs."""
        return bool(self.trained and self.epochs and max(self.trained) < self.epochs)

    def epoch_mark(self, lines):
        """Return " (epoch E of N)" for tests before the last epoch of a run; otherwise no text."""
        shown = sorted({line["epoch"] for line in lines})
        is_last = self.best or shown == [max(self.trained, default=None)]
        if not self.trained or not shown or (is_last and not self.is_unfinished):
            return ""
        total = self.epochs or max(self.trained)
        numbers = ", ".join(map(str, shown))
        return f" (epoch{'s' if len(shown) > 1 else ''} {numbers} of {total})"


class Row:
    """The tests of an experiment that were made in one way.

    Attributes:
        run: Run.
        suffix: how the tests were made, see `variant`.
        tests: {(dataset, scale): line of metrics.jsonl}.
        mark: text about an epoch that is not the last, or "".
        label: name of the row, with the suffix and the mark.
    """

    def __init__(self, run, suffix, tests):
        self.run, self.suffix, self.tests = run, suffix, tests
        truth = [line for key, line in tests.items() if key[0] not in DEMO_SETS]
        self.mark = run.epoch_mark(truth)
        self.label = run.label + suffix + self.mark
        self.folder = run.folder
        self._scores = {}  # (dataset, scale): the result of `scores`

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
        """Return {image: {"psnr": ..., "ssim": ...}} of a test; None if they were not kept.

        Raises:
            UserError: a file of scores is not a table of this program.
        """
        if key not in self._scores:
            self._scores[key] = self._find_scores(key)
        return self._scores[key]

    def scores_path(self, key):
        """Return the path of the scores of the images of a test."""
        return scores_file(self.folder, self.tests[key], self.run.best)

    def _find_scores(self, key):
        path, psnr = self.scores_path(key), self.tests[key]["psnr"]
        if not path.is_file():
            return None
        found = read_scores(path)
        mean = finite_mean(scores["psnr"] for scores in found.values())
        if mean is None or psnr is None:
            return found if mean is psnr else None
        # the file may be of another test than this row
        return found if math.isclose(mean, psnr, rel_tol=1e-12) else None

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
    """Return the rows of several runs; sets without ground truth only if there are no others."""
    rows = [row for run in runs for row in run.rows]
    if any(key[0] not in DEMO_SETS for row in rows for key in row.tests):
        for row in rows:
            row.tests = {key: line for key, line in row.tests.items() if key[0] not in DEMO_SETS}
    return [row for row in rows if row.tests]
