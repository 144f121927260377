#!/usr/bin/env python3
"""Compare experiments: tables of PSNR and SSIM, gains over the first of them, and pictures of crops as papers print them.

scripts/compare.py bicubic EDSR EDSR-PCL --diff
    a Markdown table of the last test of each set in experiment/NAME/metrics.jsonl, and below it the mean gain of each
    experiment's images over those of the first, with its standard error (from experiment/NAME/per_image)
scripts/compare.py bicubic EDSR EDSR-PCL --best --csv results.csv
    the tests of the epochs that model_best.pt is of; also as CSV, in full precision, with the gains
scripts/compare.py EDSR EDSR-PCL --figure pic/set5.png --data_test Set5 --image baby bird
    draws pic/set5_baby.png and pic/set5_bird.png from tests with --save_results --save_gt: HR with a box, then that box
    of bicubic, of each experiment's SR and of HR, with PSNR and SSIM of the whole image, as the tests compute them
"""

import argparse
import contextlib
import csv
import io
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from checkpoint.config import read_config
from checkpoint.metrics import (
    finite_mean,
    read_metrics,
    results_dir,
    scores_file,
    tests_of_training,
    variant,
)
from compare_crops import draw_all
from runtime.errors import UserError
from runtime.files import atomic_path

COLUMNS = ("experiment", "label", "dataset", "scale", "epoch", "images", "psnr", "ssim")
COLUMNS += ("psnr_gain", "psnr_gain_se", "ssim_gain", "ssim_gain_se", "gain_n")


def read_experiment(folder):
    """Return the lines of metrics.jsonl of an experiment, a list of dict.

    Raises:
        UserError: there is none.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"no such experiment: {folder} (no metrics.jsonl)")
    return read_metrics(path, lambda text: print(text, file=sys.stderr))


def epochs_of(folder):
    """Return --epochs of an experiment; None if config.txt does not say it."""
    with contextlib.suppress(UserError):
        for word in read_config(folder / "config.txt"):
            name, _, value = word.partition("=")
            if name == "--epochs" and value.isdigit():
                return int(value)
    return None


class Gain(NamedTuple):
    """Gain over the first experiment: (mean, standard error) of PSNR in dB and of SSIM, over `n` images.

    A mean is None where a score is not finite; the errors and `n` are None where the scores of the images are unknown.
    """

    psnr: tuple
    ssim: tuple
    n: int | None


class Experiment:
    """A folder of experiments, its label in tables and figures, and the tests that are shown.

    An experiment shows tests of one kind: tests with self-ensemble, tiles or another precision are
    rows of their own (`experiments_of`), marked as `checkpoint.metrics.variant` says. A training
    that has not reached its last epoch is marked with its epoch.
    """

    def __init__(self, folder, label=None, best=False, suffix=""):
        """Read metrics.jsonl.

        Args:
            folder: a Path.
            label: None takes the name of the folder.
            best: show the epoch of the best mean PSNR over all sets, which model_best.pt is of;
                else the last test of each set.
            suffix: the kind of tests, a value of `variant`.

        Raises:
            UserError: there is no metrics.jsonl.
        """
        self.folder, self.suffix = folder, suffix
        self.label = (label or folder.name.removeprefix("quickstart_")) + suffix
        lines = read_experiment(folder)
        trained = {line["epoch"] for line in lines if "loss" in line}
        self.is_best = bool(best and trained)
        tests = [line for line in lines if line.get("dataset") and variant(line) == suffix]
        self.tests = {(line["dataset"], line["scale"]): line for line in tests}  # the last of each
        if self.is_best:
            epoch = _best_epoch(tests, trained)
            made = tests_of_training(tests).items()
            self.tests = {key: by_epoch[epoch] for key, by_epoch in made if epoch in by_epoch}
        epochs = epochs_of(folder) if trained else None
        self.is_finished = not epochs or max(trained) >= epochs
        if not self.is_finished:
            self.label += f" (epoch {max(trained)} of {epochs})"

    def results_dir(self, dataset):
        """Return the folder with the SR images of the tests that are shown."""
        return results_dir(self.folder, dataset, self.suffix)

    def scores(self, key):
        """Read {image: (PSNR, SSIM)} of the test that is shown of a set and scale; None where they were not kept.

        Raises:
            UserError: the file is no such table.
        """
        path = scores_file(self.folder, self.tests[key], self.is_best)
        if not path.is_file():
            return None
        try:
            with open(path, encoding="utf-8", newline="") as file:
                found = {
                    row["image"]: (float(row["psnr"]), float(row["ssim"]))
                    for row in csv.DictReader(file)
                }
            mean = finite_mean(psnr for psnr, _ in found.values())
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"{path}: is no table of image, psnr, ssim ({error})") from error
        shown = self.tests[key]["psnr"]  # the file may be of another test
        if mean is None or shown is None:
            return found if mean is shown else None
        return found if math.isclose(mean, shown, rel_tol=1e-12) else None


def experiments_of(folder, label=None, best=False):
    """Return an Experiment for each kind of tests in a folder: plain, with self-ensemble, ..."""
    lines = read_experiment(folder)
    suffixes = dict.fromkeys(variant(line) for line in lines if line.get("dataset"))
    return [Experiment(folder, label, best, suffix) for suffix in sorted(suffixes) or [""]]


def _best_epoch(tests, trained):
    """Give the epoch of the best mean PSNR over the sets that were tested in every trained epoch."""
    first = {}  # epoch: {(dataset, scale): PSNR}
    for line in tests:
        first.setdefault(line["epoch"], {}).setdefault(
            (line["dataset"], line["scale"]), line["psnr"]
        )
    epochs = sorted(trained & set(first))
    common = set.intersection(*(set(first[epoch]) for epoch in epochs)) if epochs else set()

    def mean(epoch):
        rated = [first[epoch][key] for key in common if first[epoch][key] is not None]
        return sum(rated) / len(rated) if rated else -math.inf

    return max(epochs, key=mean, default=None)


# ---------------------------------------------------------------- gains


def gain(first, other, key):
    """Compare the test of a set and scale with that of the first experiment.

    Returns:
        (gain, note): a Gain or None, and what is missing, as the end of a sentence, or None.
    """
    if key not in first.tests or key not in other.tests:
        return None, None
    lines = [run.tests[key] for run in (first, other)]
    counts = [line.get("images") for line in lines]
    if counts[0] != counts[1]:
        return (
            None,
            f"no gain of {other.label}, tested on {counts[1]} images, {first.label} on {counts[0]}",
        )
    scores = [run.scores(key) for run in (first, other)]
    if None in scores:
        gains = [(_difference(*(line[name] for line in lines)), None) for name in ("psnr", "ssim")]
        unknown = " and ".join(
            str(scores_file(run.folder, run.tests[key], run.is_best).parent)
            for run, found in zip((first, other), scores, strict=True)
            if found is None
        )
        return Gain(
            *gains, None
        ), f"no standard error for {other.label}: {unknown} lacks this test; testing anew writes it"
    if set(scores[0]) != set(scores[1]):
        stray = min(set(scores[0]) ^ set(scores[1]))
        return (
            None,
            f"no gain of {other.label}, tested on other images than {first.label} ({stray})",
        )
    pairs = np.array(
        [[scores[0][image], scores[1][image]] for image in scores[0]]
    )  # (n, 2 runs, PSNR and SSIM)
    return Gain(*(_paired(pairs[:, 1, i] - pairs[:, 0, i]) for i in (0, 1)), len(pairs)), None


def _difference(before, after):
    return None if before is None or after is None else after - before


def _paired(gains):
    """Give mean and standard error of the mean of an array; None where they are not finite or not defined."""
    if not np.isfinite(gains).all():
        return None, None
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else None
    return float(gains.mean()), error


# --------------------------------------------------------------- tables


def _markdown(rows):
    """Join rows of cells as a Markdown table, padded so that it reads well as plain text, too."""
    rows = [[re.sub(r"([|*<])", r"\\\1", cell) for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(rows[0]))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def _rows(experiments, title, cell, skip=0):
    """Give the rows of a table, grouped by scale, with a column a data set; cell(experiment, key) gives a text."""
    keys = list(dict.fromkeys(key for run in experiments for key in run.tests))
    names = list(dict.fromkeys(name for name, _ in keys))
    rows = [[title, "scale", *names]]
    for scale in sorted({scale for _, scale in keys}):
        for run in experiments[skip:]:
            if any(number == scale for _, number in run.tests):
                rows.append([run.label, f"x{scale}", *(cell(run, (name, scale)) for name in names)])
    return rows


def _number(value, form):
    return "n/a" if value is None else format(value, form)


def table(experiments):
    """Give the Markdown table of PSNR in dB / SSIM; – where an experiment lacks a set, n/a without ground truth."""

    def cell(run, key):
        line = run.tests.get(key)
        return f"{_number(line['psnr'], '.2f')} / {_number(line['ssim'], '.4f')}" if line else "–"

    return _markdown(_rows(experiments, "PSNR (dB) / SSIM", cell))


def gain_table(experiments):
    """Give the Markdown table of gains over the first experiment, with notes below it on what is missing."""
    first, notes = experiments[0], {}

    def cell(run, key):
        if key not in run.tests or key not in first.tests:
            return "–"
        found, note = gain(first, run, key)
        if note:
            notes.setdefault(note, []).append(f"{key[0]} x{key[1]}")
        if found is None:
            return "n/a"
        texts = []
        for (mean, error), digits in ((found.psnr, 3), (found.ssim, 5)):
            texts.append(
                _number(mean, f"+.{digits}f") + ("" if error is None else f" ± {error:.{digits}f}")
            )
        return " / ".join(texts) + ("" if found.n is None else f" (n={found.n})")

    title = (
        f"Gain over {first.label} in PSNR (dB) / SSIM: mean over the n images ± its standard error, over "
        "images only (not over seeds)"
    )
    text = f"{title}\n\n" + _markdown(_rows(experiments, f"gain over {first.label}", cell, skip=1))
    return text + "".join(f"\n\n{', '.join(where)}: {note}." for note, where in notes.items())


def csv_text(experiments):
    """Give one line a test as CSV in full precision, with the gains over the first experiment at the same set and scale."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in experiments:
        for (dataset, scale), line in run.tests.items():
            found = (
                gain(experiments[0], run, (dataset, scale))[0]
                if run is not experiments[0]
                else None
            )
            gains = (*found.psnr, *found.ssim, found.n) if found else (None,) * 5
            values = (line["epoch"], line.get("images"), line["psnr"], line["ssim"], *gains)
            writer.writerow(
                [
                    run.folder.name,
                    run.label,
                    dataset,
                    scale,
                    *("" if v is None else repr(v) for v in values),
                ]
            )
    return out.getvalue()


# ----------------------------------------------------------- command line


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("experiments", nargs="+", help="names under experiment/")
    add("--labels", nargs="+", help="their names in tables and pictures")
    add("--dir_experiment", type=Path, default=ROOT / "experiment")
    add(
        "--best",
        action="store_true",
        help="tests of the best epoch (model_best.pt) instead of the last",
    )
    add(
        "--diff",
        action="store_true",
        help="also the gains over the first experiment, with standard errors",
    )
    add("--format", choices=["markdown", "csv"], default="markdown", help="what is printed")
    add("--finished", action="store_true", help="refuse trainings that have epochs left")
    add("--csv", type=Path, metavar="FILE", help="also write the CSV here")
    add(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw pictures (PNG, PDF) instead; several images: FILE_IMAGE",
    )
    add("--data_test", help="test set of the pictures")
    add("--image", nargs="+", help="names of the images, without ending")
    add("--scale", type=int, help="scale of the pictures, where the set was tested at several")
    add(
        "--box",
        type=int,
        nargs=3,
        metavar=("X", "Y", "SIDE"),
        help="crop, HR pixels (default: where bicubic errs most)",
    )
    return parser


def _print_tables(args, experiments):
    if args.csv:
        with atomic_path(args.csv) as partial:
            partial.write_text(csv_text(experiments), encoding="utf-8")
    if args.format == "csv":
        print(csv_text(experiments), end="")
        return
    print(table(experiments))
    if args.diff:
        print("\n" + gain_table(experiments))


def main(argv=None):
    """Print the tables or draw the pictures; gives the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    labels = args.labels or [None] * len(args.experiments)
    if len(labels) != len(args.experiments):
        parser.error(f"--labels: {len(labels)} labels for {len(args.experiments)} experiments")
    if args.figure and not (args.data_test and args.image):
        parser.error("--figure needs --data_test and --image")
    if args.diff and len(args.experiments) < 2:
        parser.error("--diff needs two experiments or more")
    try:
        pairs = zip(args.experiments, labels, strict=True)
        experiments = [
            experiment
            for name, label in pairs
            for experiment in experiments_of(args.dir_experiment / name, label, args.best)
        ]
        unfinished = [experiment.label for experiment in experiments if not experiment.is_finished]
        if args.finished and unfinished:
            raise UserError(f"--finished: these have epochs to train: {', '.join(unfinished)}")
        if args.figure is None:
            _print_tables(args, experiments)
        else:
            for path in draw_all(
                args.figure, experiments, args.data_test, args.image, args.scale, args.box
            ):
                print(f"drawn: {path}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
