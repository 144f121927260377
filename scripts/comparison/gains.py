"""Differences between rows of a table, and between groups of runs that differ in their seed.

Two kinds of standard error answer two questions. Over images: would the gain hold on other images,
for these very weights? Over seeds: would it hold if the networks were trained again? Only the
second one says whether a method is better.
"""

import math
from typing import NamedTuple

import numpy as np

from runtime.errors import UserError


class Gain(NamedTuple):
    """Mean gain of a metric with its standard error over images (None if it is unknown)."""

    mean: float | None
    error: float | None


def mean_and_error(values):
    """Return (mean, standard error of the mean); None for what is not finite or not defined."""
    values = np.asarray(values, float)
    if len(values) == 0 or not np.isfinite(values).all():
        return None, None
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def difference(before, after):
    """Return after - before; None if one of them is None."""
    return None if before is None or after is None else after - before


def image_gains(first, other, key, scorer):
    """Compare the tests of two rows on a set and scale.

    Args:
        first, other: rows.
        key: (dataset, scale).
        scorer: scoring.Scorer.

    Returns:
        (gains, n, note): {metric name: Gain}, or None if the tests cannot be compared; the number
        of images, or None if their scores are unknown; a sentence about what is missing, or None.
    """
    if key not in first.tests or key not in other.tests:
        return None, None, None
    counts = [row.tests[key].get("images") for row in (first, other)]
    if counts[0] != counts[1]:
        tested = f"tested on {counts[1]} images, {first.label} on {counts[0]}"
        return None, None, f"no gain of {other.label}, {tested}"
    scores = [scorer.scores(row, key) for row in (first, other)]
    if None in scores:
        gains = {
            metric.name: Gain(
                difference(*(scorer.mean(row, key, metric) for row in (first, other))), None
            )
            for metric in scorer.metrics
        }
        unknown = " and ".join(
            str(row.scores_path(key).parent)
            for row, found in zip((first, other), scores, strict=True)
            if found is None and row.run is not None
        )
        note = f"no standard error for {other.label}: {unknown} lacks this test; repeat the test"
        return gains, None, note
    if set(scores[0]) != set(scores[1]):
        stray = min(set(scores[0]) ^ set(scores[1]))
        note = f"no gain of {other.label}, tested on other images than {first.label} ({stray})"
        return None, None, note
    gains = {}
    for metric in scorer.metrics:
        pairs = [[scores[i][image].get(metric.name) for i in (0, 1)] for image in scores[0]]
        known = [pair for pair in pairs if None not in pair and np.isfinite(pair).all()]
        gains[metric.name] = Gain(*mean_and_error([after - before for before, after in known]))
    return gains, len(scores[0]), None


# ------------------------------------------------------------------ groups


class Group:
    """Runs that differ in their seed, tested in one way.

    Attributes:
        label: name of the group, with the suffix of its tests and a mark for unfinished runs.
        rows: the row of each run.
        missing: names of runs without such tests.
    """

    run = None

    def __init__(self, label, rows, missing=()):
        self.rows, self.missing = rows, list(missing)
        marks = [f"{row.run.label}{row.mark}" for row in rows if row.mark]
        self.label = label + (f" [{', '.join(marks)}]" if marks else "")

    @property
    def tests(self):
        """The rows that were tested on each set and scale: {(dataset, scale): rows}."""
        keys = dict.fromkeys(key for row in self.rows for key in row.tests)
        return {key: [row for row in self.rows if key in row.tests] for key in keys}

    def means(self, key, metric, scorer):
        """Return the mean of a metric of each run, without runs that lack it."""
        found = [scorer.mean(row, key, metric) for row in self.rows]
        return [mean for mean in found if mean is not None]

    @property
    def notes(self):
        """Sentences about what the means lack."""
        notes = [f"{self.label} lacks {name}: it has no such test" for name in self.missing]
        for key, rows in self.tests.items():
            if len(rows) < len(self.rows):
                names = ", ".join(row.run.label for row in self.rows if row not in rows)
                notes.append(f"{self.label} on {key[0]} x{key[1]} lacks {names}: not tested")
        seeds = [row.run.seed for row in self.rows if row.run.seed is not None]
        if len(set(seeds)) < len(seeds):
            notes.append(
                f"{self.label} has runs of the same --seed: their spread is not over seeds"
            )
        return notes


def parse_group(text):
    """Return (name, experiments) of "NAME=a,b,c".

    Raises:
        UserError: another form.
    """
    name, separator, members = text.partition("=")
    names = [member.strip() for member in members.split(",")]
    if not (name.strip() and separator and all(names)):
        raise UserError(f'--group "{text}" must have the form "NAME=EXPERIMENT,EXPERIMENT,..."')
    if len(set(names)) < len(names):
        raise UserError(f'--group "{text}" names an experiment twice')
    return name.strip(), names


def groups_of(label, runs):
    """Return the Groups of runs: one for each way that a run was tested."""
    rows = [row for run in runs for row in run.rows if row.tests]
    groups = []
    for suffix in sorted({row.suffix for row in rows}):
        members = [row for row in rows if row.suffix == suffix]
        missing = {run.label: None for run in runs} | {row.run.label: row for row in members}
        absent = [name for name, row in missing.items() if row is None]
        groups.append(Group(label + suffix, members, absent))
    return groups


class GroupGain(NamedTuple):
    """Gain of a group over another on a set, by a metric.

    Attributes:
        mean: mean gain.
        seed_error: standard error over seeds; None for a single seed.
        n_seeds: seeds of the pairs, or of each group if they are not paired.
        is_paired: whether each run is compared with the run of the same seed.
        image_error: standard error over images of the mean over seeds, or None.
        n_images: int, or None.
    """

    mean: float | None
    seed_error: float | None
    n_seeds: int
    is_paired: bool
    image_error: float | None
    n_images: int | None

    @property
    def verdict(self):
        """What the gain means, in words."""
        if self.mean is None:
            return "n/a"
        if self.seed_error is None:
            return "one seed: no error over seeds"
        if abs(self.mean) <= 2 * self.seed_error:
            return "within two standard errors: no difference shown"
        return "beyond two standard errors"


def _pair_by_seed(first, other, key):
    """Return pairs of rows with the same seed, or None if seeds do not match."""
    sides = []
    for group in (first, other):
        tested = [row for row in group.rows if key in row.tests]
        by_seed = {row.run.seed: row for row in tested if row.run.seed is not None}
        if len(by_seed) < len(tested):
            return None  # seeds are unknown, or used twice
        sides.append(by_seed)
    common = sorted(set(sides[0]) & set(sides[1]))
    return [(sides[0][seed], sides[1][seed]) for seed in common] or None


def _mean_over_seeds(rows, key, metric, scorer):
    """Return {image: mean of a metric over rows}, or None if a row's scores are unknown."""
    tables = [scorer.scores(row, key) for row in rows]
    if not tables or None in tables or any(set(table) != set(tables[0]) for table in tables):
        return None
    if any(metric.name not in found for table in tables for found in table.values()):
        return None
    return {
        image: sum(table[image][metric.name] for table in tables) / len(tables)
        for image in tables[0]
    }


def group_gain(first, other, key, metric, scorer):
    """Return the GroupGain of `other` over `first`.

    If seeds match, runs are paired by their --seed; runs without a partner are left out.
    """
    pairs = _pair_by_seed(first, other, key)
    if pairs:
        sides = [list(side) for side in zip(*pairs, strict=True)]
    else:
        sides = [[row for row in group.rows if key in row.tests] for group in (first, other)]
    means = [[scorer.mean(row, key, metric) for row in side] for side in sides]
    if not all(means) or any(mean is None for side in means for mean in side):
        return GroupGain(None, None, 0, bool(pairs), None, None)
    if pairs:
        mean, seed_error = mean_and_error(np.subtract(means[1], means[0]))
    else:
        (before, error_before), (after, error_after) = map(mean_and_error, means)
        mean = difference(before, after)
        known = error_before is not None and error_after is not None
        seed_error = math.hypot(error_before, error_after) if known else None
    images = [_mean_over_seeds(side, key, metric, scorer) for side in sides]
    image_error = n_images = None
    if None not in images and set(images[0]) == set(images[1]):
        _, image_error = mean_and_error([images[1][name] - images[0][name] for name in images[0]])
        n_images = len(images[0])
    n_seeds = min(len(side) for side in sides)
    return GroupGain(mean, seed_error, n_seeds, bool(pairs), image_error, n_images)
