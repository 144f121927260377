"""Tables of rows and of groups: Markdown and CSV."""

import csv
import io
import re
from typing import NamedTuple

from comparison.gains import group_gain, image_gains, mean_and_error

NOT_TESTED, UNKNOWN = "–", "n/a"
GAIN_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
COLUMNS = ("experiment", "label", "dataset", "scale", "epoch", "images")
SETTING_COLUMNS = ("self_ensemble", "chop", "precision")
IMAGES_ONLY = (
    "The error is over images only: it does not cover the spread between seeds (see --group)."
)


def format_number(value, form):
    """Return a number in a format, or n/a for None."""
    return UNKNOWN if value is None else format(value, form)


def markdown(cells):
    """Join rows of cells as a Markdown table that also reads well as plain text."""
    cells = [[re.sub(r"([|*<])", r"\\\1", cell) for cell in row] for row in cells]
    cells.insert(1, ["---"] * len(cells[0]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def keys_of(rows):
    """Return the (dataset, scale) of all rows, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.tests))


def grid(rows, title, cell, costs=None, skip=0):
    """Return the cells of a table: rows by scale, a column for each data set.

    Args:
        rows: rows or groups.
        title: heading of the first column.
        cell: maps (row, key) to text.
        costs: cost.CostTable for two more columns, or None.
        skip: number of rows at the start that only count for the columns.
    """
    keys = keys_of(rows)
    names = list(dict.fromkeys(name for name, _ in keys))
    heads = ["parameters", "multiply-adds"] if costs else []
    cells = [[title, "scale", *heads, *names]]
    for scale in sorted({scale for _, scale in keys}):
        for row in rows[skip:]:
            if any(other == scale for _, other in row.tests):
                texts = cost_texts(costs.cost(row, scale)) if costs else []
                texts += [cell(row, (name, scale)) for name in names]
                cells.append([row.label, f"x{scale}", *texts])
    return cells


def cost_texts(cost):
    """Return parameters and multiply-adds as text, as papers print them."""
    if cost is None or cost.parameters == 0:
        return [NOT_TESTED, NOT_TESTED]
    return [f"{cost.parameters / 1e3:,.0f} K", f"{cost.multiply_adds / 1e9:,.1f} G"]


def value_text(row, key, scorer):
    """Return the metrics of a test as text, joined by " / "."""
    if key not in row.tests:
        return NOT_TESTED
    means = ((scorer.mean(row, key, metric), metric) for metric in scorer.metrics)
    return " / ".join(format_number(mean, f".{metric.digits}f") for mean, metric in means)


def score_notes(scorer, costs=None):
    """Return sentences about the table of scores."""
    notes = list(dict.fromkeys(scorer.notes))
    if costs:
        notes += ["multiply-adds are for an SR image of 1280x720 pixels", *costs.notes]
    return notes


def score_table(rows, scorer, costs=None):
    """Return the Markdown table of the metrics' means."""
    title = " / ".join(metric.title for metric in scorer.metrics)
    cells = grid(rows, title, lambda row, key: value_text(row, key, scorer), costs)
    return markdown(cells) + "".join(f"\n\n{note}." for note in score_notes(scorer, costs))


class Table(NamedTuple):
    """A table with sentences around it.

    Attributes:
        title: sentences above.
        cells: rows of text; the first one is the heading.
        notes: sentences below, without their full stop.
    """

    title: str
    cells: list
    notes: list

    def markdown(self):
        """Return the table as Markdown."""
        notes = [f"{note}." for note in self.notes]
        return "\n\n".join([self.title, markdown(self.cells), *notes])


def gain_table(rows, scorer):
    """Return the Table of gains over the first row, with notes on missing values."""
    first, notes = rows[0], {}

    def cell(row, key):
        if key not in row.tests or key not in first.tests:
            return NOT_TESTED
        gains, n, note = image_gains(first, row, key, scorer)
        if note:
            notes.setdefault(note, []).append(f"{key[0]} x{key[1]}")
        if gains is None:
            return UNKNOWN
        texts = []
        for metric in scorer.metrics:
            mean, error = gains[metric.name]
            digits = metric.digits + 1
            text = format_number(mean, f"+.{digits}f")
            texts.append(text if error is None else f"{text} ± {error:.{digits}f}")
        return " / ".join(texts) + ("" if n is None else f" (n={n})")

    metrics = " / ".join(metric.title for metric in scorer.metrics)
    title = f"Gain over {first.label} in {metrics}: mean over n images ± its standard error. "
    cells = grid(rows, f"gain over {first.label}", cell, skip=1)
    notes = [f"{', '.join(where)}: {note}" for note, where in notes.items()]
    return Table(title + IMAGES_ONLY, cells, notes)


# ------------------------------------------------------------------ groups


def group_table(groups, scorer, costs=None):
    """Return the Table of means over seeds with their standard errors."""

    def cell(group, key):
        texts, counts = [], []
        for metric in scorer.metrics:
            means = group.means(key, metric, scorer)
            mean, error = mean_and_error(means)
            digits = metric.digits + (error is not None)
            text = format_number(mean, f".{digits}f")
            texts.append(text if error is None else f"{text} ± {error:.{digits}f}")
            counts.append(len(means))
        if not any(counts):
            return NOT_TESTED
        n = max(counts)
        return " / ".join(texts) + f" ({n} seed{'s' if n > 1 else ''})"

    title = " / ".join(metric.title for metric in scorer.metrics)
    notes = [*score_notes(scorer, costs), *(note for group in groups for note in group.notes)]
    text = "Mean over runs that differ in their seed ± its standard error over seeds"
    return Table(text, grid(groups, title, cell, costs), notes)


def group_gain_table(groups, scorer):
    """Return the Table of gains over the first group."""
    first = groups[0]
    head = [f"gain over {first.label}", "scale", "set", "metric", "gain", "± over seeds"]
    cells = [[*head, "± over images", "verdict"]]
    for group in groups[1:]:
        for key in (key for key in group.tests if key in first.tests):
            for metric in scorer.metrics:
                cells.append(_group_gain_cells(first, group, key, metric, scorer))
    text = (
        f"Gain over {first.label}. The error over seeds says whether training again would give "
        "the gain again, the error over images whether other images would."
    )
    return Table(text, cells, [])


def _group_gain_cells(first, group, key, metric, scorer):
    gain = group_gain(first, group, key, metric, scorer)
    form = f".{metric.digits + 1}f"
    seeds = images = UNKNOWN
    if gain.seed_error is not None:
        kind = "pairs" if gain.is_paired else "runs each, not paired"
        seeds = f"{gain.seed_error:{form}} ({gain.n_seeds} {kind})"
    if gain.image_error is not None:
        images = f"{gain.image_error:{form}} (n={gain.n_images})"
    name = GAIN_NAMES.get(metric.name, metric.title)
    mean = format_number(gain.mean, "+" + form)
    return [group.label, f"x{key[1]}", key[0], name, mean, seeds, images, gain.verdict]


# --------------------------------------------------------------------- CSV


def _write_csv(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _text(value):
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def csv_text(rows, scorer, costs=None):
    """Return one line a test as CSV in full precision, with the gains over the first row."""
    names = [metric.name for metric in scorer.metrics]
    gain_names = [f"{name}_gain{end}" for name in names for end in ("", "_se")]
    heads = [*COLUMNS, *names, *gain_names, "gain_n", *SETTING_COLUMNS]
    lines = [[*heads, *(("parameters", "multiply_adds") if costs else ())]]
    for row in rows:
        for key, test in row.tests.items():
            gains = n = None
            if row is not rows[0]:
                gains, n, _ = image_gains(rows[0], row, key, scorer)
            values = [row.folder.name, row.label, *key, test.get("epoch"), test.get("images")]
            values += [scorer.mean(row, key, metric) for metric in scorer.metrics]
            for name in names:
                values += [*gains[name]] if gains else [None, None]
            values += [n, *(row.how[name] if row.run else None for name in SETTING_COLUMNS)]
            if costs:
                values += costs.cost(row, key[1]) or (None, None)
            lines.append([_text(value) for value in values])
    return _write_csv(lines)


def image_csv_text(rows, scorer):
    """Return one line an image as CSV, with every metric in full precision."""
    names = [metric.name for metric in scorer.metrics]
    lines = [["label", "dataset", "scale", "image", *names]]
    for row in rows:
        for key in row.tests:
            for image, found in (scorer.scores(row, key) or {}).items():
                values = [_text(found.get(name)) for name in names]
                lines.append([row.label, key[0], key[1], image, *values])
    return _write_csv(lines)


def group_csv_text(groups, scorer):
    """Return one line a group, set and metric as CSV in full precision."""
    heads = ["group", "runs", "dataset", "scale", "metric", "mean", "se_seeds", "n_seeds"]
    heads += ["gain", "gain_se_seeds", "gain_n_seeds", "gain_is_paired"]
    lines = [[*heads, "gain_se_images", "gain_n_images"]]
    for group in groups:
        runs = "+".join(row.folder.name for row in group.rows)
        for key in group.tests:
            for metric in scorer.metrics:
                means = group.means(key, metric, scorer)
                values = [group.label, runs, *key, metric.name, *mean_and_error(means), len(means)]
                if group is not groups[0] and key in groups[0].tests:
                    values += group_gain(groups[0], group, key, metric, scorer)
                else:
                    values += [None] * 6
                lines.append([_text(value) for value in values])
    return _write_csv(lines)
