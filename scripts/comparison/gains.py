"""Differences between rows of a table, and between groups of seeds.

Two kinds of standard error answer two questions. Over images: would the gain hold on other images,
for these very weights? Over seeds: would it hold if the networks were trained again? Only the
second one says whether a method is better.
"""

import math
import os
from typing import NamedTuple

import numpy as np

from comparison.common import common_scores, lost_images, means_are_comparable, mismatch
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


def difference(before, after):
    """Return after - before; None if one of them is None."""
    return None if before is None or after is None else after - before


def reference(rows, row, key):
    """Return the row or group that a gain on a set is over, or None.

    It is of the first experiment, and tested in the same way as `row` if it has such a test.
    """
    first = rows[0]
    own = [r for r in rows if r.family == first.family and r is not row and key in r.tests]
    same = [r for r in own if r.suffix == row.suffix]
    return (same or [r for r in own if r is first] or [None])[0]


def image_gains(first, other, key, scorer):
    """Compare the tests of two rows on a set and scale, which both have.

    Args:
        first, other: rows.
        key: (dataset, scale).
        scorer: scoring.Scorer.

    Returns:
        (gains, note): {metric name: Gain}, or None if the tests cannot be compared; a sentence
        about what is missing, or None.
    """
    if problem := mismatch((first, other), key, scorer):
        return None, f"no gain of {other.label}: {problem}"
    gains, note = {}, None
    for metric in scorer.metrics:
        tables = common_scores((first, other), key, metric, scorer)
        if tables is not None:
            before, after = tables
            mean, error = mean_and_error([after[image] - before[image] for image in before])
            gains[metric.name] = Gain(mean, error, len(before))
        elif means_are_comparable((first, other), key, metric, scorer):
            means = (scorer.mean(row, key, metric) for row in (first, other))
            gains[metric.name] = Gain(difference(*means))
        else:
            gains[metric.name] = Gain(None)
    unknown = [row for row in (first, other) if row.run and scorer.scores(row, key) is None]
    if unknown:
        paths = dict.fromkeys(str(row.scores_path(key).parent) for row in unknown)
        lacks = "lacks" if len(paths) == 1 else "lack"
        note = f"no standard error for {other.label}: {' and '.join(paths)} {lacks} this test"
        note += "; repeat the test"
    return gains, note


# ------------------------------------------------------------------ groups


class Group:
    """Runs that differ in their seed, tested in one way.

    Attributes:
        family: name of the group.
        suffix: how its tests were made.
        rows: the row of each run.
        missing: names of runs without such tests.
        label: the name with the suffix and a mark for unfinished runs.
    """

    run = None

    def __init__(self, name, suffix, rows, missing=()):
        self.family, self.suffix, self.rows, self.missing = name, suffix, rows, list(missing)
        marks = [f"{row.run.label}{row.mark}" for row in rows if row.mark]
        self.label = name + suffix + (f" [{', '.join(marks)}]" if marks else "")

    @property
    def tests(self):
        """The rows that were tested on each set and scale: {(dataset, scale): rows}."""
        keys = dict.fromkeys(key for row in self.rows for key in row.tests)
        return {key: [row for row in self.rows if key in row.tests] for key in keys}

    def summary(self, key, metric, scorer):
        """Return (mean, standard error over seeds, number of seeds) of the runs with a metric."""
        found = [(row, scorer.mean(row, key, metric)) for row in self.rows]
        rows = [row for row, mean in found if mean is not None]
        mean, error = mean_and_error([mean for _, mean in found if mean is not None])
        n_seeds = count_seeds(rows)
        return mean, error if n_seeds == len(rows) else None, n_seeds

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


def count_seeds(rows):
    """Return the number of different seeds of rows; each unknown seed counts."""
    seeds = [row.run.seed for row in rows]
    return len(set(seeds) - {None}) + seeds.count(None)


def parse_group(text):
    """Return (name, experiments) of "NAME=a,b,c".

    Raises:
        UserError: another form.
    """
    name, separator, members = text.partition("=")
    names = [member.strip() for member in members.split(",")]
    if not (name.strip() and separator and all(names)):
        raise UserError(f'--group "{text}" must have the form "NAME=EXPERIMENT,EXPERIMENT,..."')
    if len({os.path.normpath(name) for name in names}) < len(names):
        raise UserError(f'--group "{text}" names an experiment twice')
    return name.strip(), names


def check_names(names):
    """Raise UserError if two groups have one name."""
    for name in {name for name in names if names.count(name) > 1}:
        raise UserError(f"--group {name}=...: two groups must have different names")


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
    """Gain of a group over another on a set, by a metric.

    Attributes:
        mean: mean gain; None if the groups cannot be compared.
        seed_error: standard error over seeds, or None.
        n_seeds: pairs, or different seeds of the smaller group if runs are not paired.
        is_paired: whether each run is compared with the run of the same seed.
        image_error: standard error over images of the mean over seeds, or None.
        n_images: int, or None.
    """

    mean: float | None = None
    seed_error: float | None = None
    n_seeds: int = 0
    is_paired: bool = False
    image_error: float | None = None
    n_images: int | None = None

    @property
    def kind(self):
        """What was compared, in words."""
        return f"{self.n_seeds} {'pairs' if self.is_paired else 'runs each, not paired'}"

    @property
    def verdict(self):
        """What the gain means, in words."""
        if self.mean is None:
            return "n/a"
        if self.n_seeds == 1:
            return "one seed: no error over seeds"
        if self.seed_error is None:
            return "runs of the same seed: no error over seeds"
        if self.n_seeds < MIN_SEEDS:
            return f"{self.kind.partition(',')[0]}: too few to tell"
        if abs(self.mean) <= 2 * self.seed_error:
            return "within two standard errors: no difference shown"
        return "beyond two standard errors"


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
    """Return the GroupGain of `other` over `first`.

    It is over the images that are finite in all runs. Runs are compared in pairs if both groups
    have the same seeds.
    """
    sides = [group.tests[key] for group in (first, other)]
    pairs = _pair_by_seed(*sides)
    sides, every_row = pairs or sides, [*sides[0], *sides[1]]
    if mismatch(every_row, key, scorer):
        return GroupGain()
    tables = common_scores(every_row, key, metric, scorer)
    if any(lost_images(row, key, metric, scorer) for row in every_row):
        if not (tables and tables[0]):
            return GroupGain()
        own = dict(zip(every_row, map(_mean, tables), strict=True))
    else:
        own = {row: scorer.mean(row, key, metric) for row in every_row}
    means = [[own[row] for row in side] for side in sides]
    if any(mean is None for side in means for mean in side):
        return GroupGain()
    n_seeds = min(map(count_seeds, sides))
    mean, seed_error = _gain_over_seeds(means, pairs)
    if any(count_seeds(side) < len(side) for side in sides):
        seed_error = None
    image_error = n_images = None
    if tables is not None:
        by_row = dict(zip(every_row, tables, strict=True))
        before, after = ([by_row[row] for row in side] for side in sides)
        _, image_error = mean_and_error(
            [_mean_of(after, image) - _mean_of(before, image) for image in tables[0]]
        )
        n_images = len(tables[0])
    return GroupGain(mean, seed_error, n_seeds, bool(pairs), image_error, n_images)


def _mean(scores):
    return sum(scores.values()) / len(scores)


def _mean_of(tables, image):
    """Return the mean of the scores of an image over runs."""
    return sum(table[image] for table in tables) / len(tables)


def _gain_over_seeds(means, is_paired):
    """Return (mean gain, standard error over seeds) of the means of runs."""
    if is_paired:
        return mean_and_error(np.subtract(means[1], means[0]))
    (before, error_before), (after, error_after) = map(mean_and_error, means)
    known = error_before is not None and error_after is not None
    return after - before, math.hypot(error_before, error_after) if known else None
