"""Groups of seeds, and gains of rows and of groups with their standard errors.

The error over images says whether other images would give the gain, for these very weights, that
over seeds whether training again would. Only the second one says whether a method is better.
"""

import math
import os
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from comparison.runs import printable
from comparison.scoring import common_scores, lost_images, mismatch, tests_of
from runtime.files import UserError

# flags that runs of a group share
RECIPE_FLAGS = "model scale loss lr scheduler epochs test_every batch_size patch_size data_train"
RECIPE_FLAGS += " degradation pre_train teacher n_resblocks n_feats optimizer rgb_range use_ema"
RECIPE_FLAGS += " cl_layer cl_loss_type cl_temperature use_aug pos_teacher neg_history"
MIN_SEEDS = 3  # a standard error of two values says almost nothing (t with one degree of freedom)


def mean_and_error(values):
    """Return (mean, its standard error); None if it is not finite or not defined."""
    values = np.asarray(values, float)
    if len(values) == 0 or not np.isfinite(values).all():
        return None, None
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


class Group:
    """Runs that differ in their seed, tested in one way; `missing` runs have no such tests."""

    def __init__(self, name, suffix, rows, missing):
        self.family, self.suffix, self.rows = name, suffix, rows
        marks = [f"{row.run.label}{row.mark}" for row in rows if row.mark]
        self.label = name + suffix + (f" [{', '.join(marks)}]" if marks else "")
        self.tests = dict.fromkeys(key for row in rows for key in row.tests)
        self.notes = [f"{self.label} lacks {run.label}: it has no such test" for run in missing]
        for key in self.tests:
            if names := [row.run.label for row in rows if key not in row.tests]:
                where = f"{self.label} on {key[0]} x{key[1]}"
                self.notes.append(f"{where} lacks {', '.join(names)}: not tested")
        if count_seeds(rows) < len(rows):
            self.notes.append(f"{self.label} has runs of the same --seed: no error over seeds")
        for flag in RECIPE_FLAGS.split():
            values = {row.run.flags.get(flag) for row in rows if row.run.was_trained}
            if len(values) > 1:
                self.notes.append(f"{self.label} has runs of different --{flag}")


def parse_groups(texts):
    """Return (name, experiments) of each "NAME=a,b,c"."""
    pairs = []
    for text in texts:
        name, separator, members = text.partition("=")
        names = [member.strip() for member in members.split(",")]
        if not (name.strip() and separator and all(names)):
            raise UserError(f'--group "{text}" must have the form "NAME=EXPERIMENT,EXPERIMENT,..."')
        if len({os.path.normpath(name) for name in names}) < len(names):
            raise UserError(f'--group "{text}" names an experiment twice')
        if printable(name) in dict(pairs):
            raise UserError(f"--group {name}=...: two groups must have different names")
        pairs.append((printable(name), names))
    return pairs


def groups_of(name, runs):
    """Return the Groups of runs: one for each way that a run was tested."""
    rows, groups = [row for run in runs for row in run.rows if row.tests], []
    for suffix in sorted({row.suffix for row in rows}):
        members = [row for row in rows if row.suffix == suffix]
        tested = [row.run for row in members]
        groups.append(Group(name, suffix, members, [run for run in runs if run not in tested]))
    return groups


def count_seeds(rows):
    """Return the number of different seeds of rows; each unknown seed counts."""
    seeds = [row.seed for row in rows]
    return len(set(seeds) - {None}) + seeds.count(None)


def summary(row, key, metric, scorer):
    """Return (mean, standard error over seeds, number of seeds) of a row or a group.

    A mean over runs that were tested on different images is None.
    """
    if not isinstance(row, Group):
        return scorer.mean(row, key, metric), None, None
    means = {member: scorer.mean(member, key, metric) for member in row.rows}
    means = {member: mean for member, mean in means.items() if mean is not None}
    n_seeds = count_seeds(means)
    if mismatch(means, key, scorer):
        return None, None, n_seeds
    mean, error = mean_and_error(list(means.values()))
    return mean, error if n_seeds == len(means) else None, n_seeds


class Gain(NamedTuple):
    """Gain of a row or a group over another on a set, by a metric."""

    mean: float | None = None  # None if they cannot be compared
    seed_error: float | None = None  # standard error over seeds
    n_seeds: int = 0  # pairs, or different seeds of the smaller group if runs are not paired
    is_paired: bool = False  # each run is compared with the run of the same seed
    image_error: float | None = None  # standard error over images of the mean over seeds
    n_images: int | None = None
    freedom: float = 0  # degrees of freedom of seed_error

    @property
    def kind(self):
        """The number of pairs or runs, in words."""
        return f"{self.n_seeds} {'pairs' if self.is_paired else 'runs each, not paired'}"

    @property
    def margin(self):
        """Half of the 95 % interval over seeds; None with too few seeds to tell."""
        if self.seed_error is None or self.n_seeds < MIN_SEEDS:
            return None
        return float(stdtrit(self.freedom, 0.975)) * self.seed_error

    @property
    def shows_difference(self):
        """Whether 0 is outside of the 95 % interval over seeds."""
        return self.margin is not None and abs(self.mean) > self.margin

    def verdict(self, digits):
        """Return what the gain means, in words, with numbers of so many digits."""
        if self.mean is None:
            return "n/a"
        if self.n_seeds == 1:
            return "one seed: no error over seeds"
        if self.seed_error is None:
            return "runs of the same seed: no error over seeds"
        if self.margin is None:
            return f"{self.kind.partition(',')[0]}: too few to tell"
        low, high = (self.mean + sign * self.margin for sign in (-1, 1))
        interval = f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
        return f"{'difference' if self.shows_difference else 'no difference shown'}: {interval}"


def reference(rows, row, key):
    """Return the row or group that a gain on a set is over, or None.

    It is of the first experiment, and tested in the same way as `row` if it has such a test.
    """
    first = rows[0]
    own = [r for r in rows if r.family == first.family and r is not row and key in r.tests]
    same = [r for r in own if r.suffix == row.suffix]
    return (same or [r for r in own if r is first] or [None])[0]


def _pair_by_seed(first, other):
    """Return two lists of rows with the same seeds, all seeds of one side, or None."""
    sides = [{row.seed: row for row in rows} for rows in (first, other)]
    seeds = sides[0].keys() & sides[1].keys()
    is_unique = [len(side) for side in sides] == [len(first), len(other)]
    if None in seeds or len(seeds) < min(map(len, sides)) or not is_unique:
        return None
    return [[side[seed] for seed in sorted(seeds)] for side in sides]


def seed_notes(first, other, key):
    """Return sentences about runs without a run of the same seed on the other side."""
    sides = [tests_of([group], key) for group in (first, other)]
    seeds = [{row.seed for row in rows} - {None} for rows in sides]
    if not seeds[0] & seeds[1] or seeds[0] == seeds[1]:
        return []
    if pairs := _pair_by_seed(*sides):
        numbers = ", ".join(str(row.seed) for row in pairs[0])
        return [f"{other.label} and {first.label} are compared by the runs of seed {numbers} alone"]
    return [f"{other.label} and {first.label} share some seeds only: their runs are not paired"]


def gain_over(first, other, key, metric, scorer):
    """Return the Gain of `other` over `first`, over the images that are finite in all runs.

    Runs are compared in pairs if the seeds of one group are among those of the other.
    """
    sides = [tests_of([row], key) for row in (first, other)]
    pairs = _pair_by_seed(*sides)
    sides = pairs or sides
    every_row = sides[0] + sides[1]
    if mismatch(every_row, key, scorer):
        return Gain()
    values = common_scores(every_row, key, metric, scorer)
    if any(lost_images(row, key, metric, scorer) for row in every_row):
        if not (values and values[every_row[0]]):
            return Gain()
        own = {row: sum(scores) / len(scores) for row, scores in values.items()}
    else:
        own = {row: scorer.mean(row, key, metric) for row in every_row}
    if None in own.values():
        return Gain()
    mean, seed_error, freedom = _gain_over_seeds([[own[row] for row in s] for s in sides], pairs)
    if any(count_seeds(side) < len(side) for side in sides):
        seed_error = None
    image_error = n_images = None
    if values:
        before, after = (np.mean([values[row] for row in side], 0) for side in sides)
        of_images, image_error = mean_and_error(after - before)
        mean = mean if isinstance(other, Group) else of_images  # the same, except for rounding
        n_images = len(before)
    n_seeds = min(map(count_seeds, sides))
    return Gain(mean, seed_error, n_seeds, bool(pairs), image_error, n_images, freedom)


def _gain_over_seeds(means, is_paired):
    """Return (mean gain, its standard error over seeds, degrees of freedom) of means of runs."""
    if is_paired:
        return *mean_and_error(np.subtract(means[1], means[0])), len(means[0]) - 1
    (before, error_before), (after, error_after) = map(mean_and_error, means)
    if error_before is None or error_after is None:
        return after - before, None, 0
    squares = error_before**2, error_after**2
    parts = sum(s**2 / (len(side) - 1) for s, side in zip(squares, means, strict=True))
    freedom = sum(squares) ** 2 / parts if parts else sum(map(len, means)) - 2  # Welch's t-test
    return after - before, math.sqrt(sum(squares)), freedom
