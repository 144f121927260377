"""Differences between rows of a table, and between groups of seeds.

Two kinds of standard error answer two questions. Over images: would the gain hold on other images,
for these very weights? Over seeds: would it hold if the networks were trained again? Only the
second one says whether a method is better. Its interval is that of Student's t: with three pairs,
95 % are 4.3 standard errors, not 2.
"""

import math
import os
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from comparison.runs import printable
from comparison.scoring import common_scores, lost_images, means_are_comparable, mismatch
from runtime.files import UserError

MIN_SEEDS = 3  # a standard error of two values says almost nothing (t with one degree of freedom)


class Gain(NamedTuple):
    """Mean gain of a metric and its standard error over n images."""

    mean: float | None
    error: float | None = None
    n: int | None = None


def mean_and_error(values):
    """Return (mean, its standard error); None if it is not finite or not defined."""
    values = np.asarray(values, float)
    if len(values) == 0 or not np.isfinite(values).all():
        return None, None
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def reference(rows, row, key):
    """Return the row or group that a gain on a set is over, or None.

    It is of the first experiment, and tested in the same way as `row` if it has such a test.
    """
    first = rows[0]
    own = [r for r in rows if r.family == first.family and r is not row and key in r.tests]
    same = [r for r in own if r.suffix == row.suffix]
    return (same or [r for r in own if r is first] or [None])[0]


def image_gains(first, other, key, scorer):
    """Return ({metric name: Gain}, or None if tests cannot be compared; note on what is missing)."""
    if problem := mismatch((first, other), key, scorer):
        return None, f"no gain of {other.label}: {problem}"
    gains, note = {}, None
    for metric in scorer.metrics:
        gains[metric.name] = Gain(None)
        tables = common_scores((first, other), key, metric, scorer)
        if tables is not None:
            before, after = tables
            mean, error = mean_and_error([after[image] - before[image] for image in before])
            gains[metric.name] = Gain(mean, error, len(before))
        elif means_are_comparable((first, other), key, metric, scorer):
            means = [scorer.mean(row, key, metric) for row in (first, other)]
            gains[metric.name] = Gain(None if None in means else means[1] - means[0])
    unknown = [row for row in (first, other) if row.run and scorer.scores(row, key) is None]
    if unknown:
        paths = dict.fromkeys(str(row.scores_path(key).parent) for row in unknown)
        lacks = "lacks" if len(paths) == 1 else "lack"
        note = f"no standard error for {other.label}: {' and '.join(paths)} {lacks} this test"
        note += "; repeat the test"
    return gains, note


# ------------------------------------------------------------------ groups


class Group:
    """Runs that differ in their seed, tested in one way."""

    run = None

    def __init__(self, name, suffix, rows, missing=()):
        """Keep the name, how tests were made, the row of each run, and the runs without such tests.

        `tests` is {(dataset, scale): the rows that were tested on it}.
        """
        self.family, self.suffix, self.rows, self.missing = name, suffix, rows, missing
        marks = [f"{row.run.label}{row.mark}" for row in rows if row.mark]
        self.label = name + suffix + (f" [{', '.join(marks)}]" if marks else "")
        keys = dict.fromkeys(key for row in rows for key in row.tests)
        self.tests = {key: [row for row in rows if key in row.tests] for key in keys}

    @property
    def notes(self):
        """Sentences about what the means lack."""
        notes = [f"{self.label} lacks {name}: it has no such test" for name in self.missing]
        for key, rows in self.tests.items():
            if len(rows) < len(self.rows):
                names = ", ".join(row.run.label for row in self.rows if row not in rows)
                notes.append(f"{self.label} on {key[0]} x{key[1]} lacks {names}: not tested")
        if count_seeds(self.rows) < len(self.rows):
            notes.append(f"{self.label} has runs of the same --seed: no error over seeds")
        return notes


def summary(row, key, metric, scorer):
    """Return (mean, standard error over seeds, number of seeds) of a row or a group.

    A mean over runs that were tested on different images is None.
    """
    if not isinstance(row, Group):
        return scorer.mean(row, key, metric), None, None
    found = [(member, scorer.mean(member, key, metric)) for member in row.rows]
    members = [member for member, mean in found if mean is not None]
    n_seeds = count_seeds(members)
    if mismatch(members, key, scorer):
        return None, None, n_seeds
    mean, error = mean_and_error([mean for _, mean in found if mean is not None])
    return mean, error if n_seeds == len(members) else None, n_seeds


def count_seeds(rows):
    """Return the number of different seeds of rows; each unknown seed counts."""
    seeds = [row.run.seed for row in rows]
    return len(set(seeds) - {None}) + seeds.count(None)


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
        pairs.append((printable(name), names))
    names = [name for name, _ in pairs]
    for name in {name for name in names if names.count(name) > 1}:
        raise UserError(f"--group {name}=...: two groups must have different names")
    return pairs


def groups_of(name, runs):
    """Return the Groups of runs: one for each way that a run was tested."""
    rows = [row for run in runs for row in run.rows if row.tests]
    groups = []
    for suffix in sorted({row.suffix for row in rows}):
        members = [row for row in rows if row.suffix == suffix]
        tested = [row.run for row in members]
        absent = [run.label for run in runs if run not in tested]
        groups.append(Group(name, suffix, members, absent))
    return groups


class GroupGain(NamedTuple):
    """Gain of a group over another on a set, by a metric."""

    mean: float | None = None  # None if the groups cannot be compared
    seed_error: float | None = None  # standard error over seeds
    n_seeds: int = 0  # pairs, or different seeds of the smaller group if runs are not paired
    is_paired: bool = False  # each run is compared with the run of the same seed
    image_error: float | None = None  # standard error over images of the mean over seeds
    n_images: int | None = None
    freedom: float = 0  # degrees of freedom of seed_error

    @property
    def kind(self):
        """What was compared, in words."""
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


def _pair_by_seed(first, other):
    """Return two lists of rows with the same seeds, or None."""
    sides = [{row.run.seed: row for row in rows} for rows in (first, other)]
    seeds = set(sides[0])
    is_unique = len(seeds) == len(first) == len(other)
    if None in seeds or set(sides[1]) != seeds or not is_unique:
        return None
    return [[side[seed] for seed in sorted(seeds)] for side in sides]


def seed_notes(first, other, key):
    """Return sentences about runs that are not compared in pairs though they share seeds."""
    sides = [group.tests[key] for group in (first, other)]
    seeds = [{row.run.seed for row in rows} - {None} for rows in sides]
    if _pair_by_seed(*sides) or not seeds[0] & seeds[1]:
        return []
    return [f"{other.label} and {first.label} share some seeds only: their runs are not paired"]


def group_gain(first, other, key, metric, scorer):
    """Return the GroupGain of `other` over `first`, over the images that are finite in all runs.

    Runs are compared in pairs if both groups have the same seeds.
    """
    sides = [group.tests[key] for group in (first, other)]
    pairs = _pair_by_seed(*sides)
    sides, every_row = pairs or sides, [*sides[0], *sides[1]]
    if mismatch(every_row, key, scorer):
        return GroupGain()
    tables = common_scores(every_row, key, metric, scorer)
    by_row = dict(zip(every_row, tables or [], strict=False))
    if any(lost_images(row, key, metric, scorer) for row in every_row):
        if not (tables and tables[0]):
            return GroupGain()
        own = {row: sum(scores.values()) / len(scores) for row, scores in by_row.items()}
    else:
        own = {row: scorer.mean(row, key, metric) for row in every_row}
    means = [[own[row] for row in side] for side in sides]
    if any(mean is None for side in means for mean in side):
        return GroupGain()
    mean, seed_error, freedom = _gain_over_seeds(means, pairs)
    if any(count_seeds(side) < len(side) for side in sides):
        seed_error = None
    image_error = n_images = None
    if tables is not None:
        n_images = len(tables[0])
        per_image = [[list(by_row[row].values()) for row in side] for side in sides]
        _, image_error = mean_and_error(np.mean(per_image[1], 0) - np.mean(per_image[0], 0))
    n_seeds = min(map(count_seeds, sides))
    return GroupGain(mean, seed_error, n_seeds, bool(pairs), image_error, n_images, freedom)


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
