"""Tables of rows and of groups: Markdown and CSV."""

import csv
import io
import re
from typing import NamedTuple

from comparison.common import image_notes, plural
from comparison.gains import group_gain, image_gains, reference, seed_notes

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


def score_notes(rows, scorer, costs=None):
    """Return sentences about a table of rows or groups; its cells must be known."""
    notes = image_notes(rows, scorer)
    notes += [note for row in rows for note in getattr(row, "notes", [])]
    notes += dict.fromkeys(scorer.notes)
    if costs:
        notes += ["multiply-adds are for an SR image of 1280x720 pixels", *costs.notes]
    return notes


def score_table(rows, scorer, costs=None):
    """Return the Markdown table of the metrics' means."""
    title = " / ".join(metric.title for metric in scorer.metrics)
    cells = grid(rows, title, lambda row, key: value_text(row, key, scorer), costs)
    return markdown(cells) + "".join(f"\n\n{note}." for note in score_notes(rows, scorer, costs))


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


def order_notes(metrics):
    """Return a sentence for each metric whose highest value is not the best."""
    notes = []
    for metric in metrics:
        if metric.target is not None:
            notes.append(f"The best {metric.title} is {metric.target:g}.")
        elif metric.lower_better:
            notes.append(f"The best {metric.title} is the lowest.")
    return notes


def gain_text(gains, metrics):
    """Return the gains of a row as text, with the number of images."""
    counts = {gain.n for gain in gains.values() if gain.mean is not None and gain.n is not None}
    texts = []
    for metric in metrics:
        gain, digits = gains[metric.name], metric.digits + 1
        text = format_number(gain.mean, f"+.{digits}f")
        text += "" if gain.error is None else f" ± {gain.error:.{digits}f}"
        texts.append(text + (f" (n={gain.n})" if len(counts) > 1 and gain.n else ""))
    return " / ".join(texts) + (f" (n={min(counts)})" if len(counts) == 1 else "")


def gain_table(rows, scorer):
    """Return the Table of gains over the first row, with notes on missing values."""
    first, notes = rows[0], {}

    def cell(row, key):
        base = reference(rows, row, key)
        if key not in row.tests or base is None:
            return NOT_TESTED
        gains, note = image_gains(base, row, key, scorer)
        if base is not first:
            notes.setdefault(f"gain of {row.label} over {base.label}", []).append(key)
        if note:
            notes.setdefault(note, []).append(key)
        return UNKNOWN if gains is None else gain_text(gains, scorer.metrics)

    metrics = " / ".join(metric.title for metric in scorer.metrics)
    title = f"Gain over {first.label} in {metrics}: mean over n images ± its standard error."
    title = " ".join([title, *order_notes(scorer.metrics), IMAGES_ONLY])
    cells = grid(rows, f"gain over {first.label}", cell, skip=1)
    where = {
        note: ", ".join(f"{name} x{scale}" for name, scale in keys) for note, keys in notes.items()
    }
    return Table(title, cells, [f"{sets}: {note}" for note, sets in where.items()])


# ------------------------------------------------------------------ groups


def seed_text(n_seeds):
    """Return " (3 seeds)"."""
    return f" ({plural(n_seeds, 'seed')})"


def group_table(groups, scorer, costs=None):
    """Return the Table of means over seeds with their standard errors."""

    def cell(group, key):
        texts, counts = [], []
        for metric in scorer.metrics:
            mean, error, n_seeds = group.summary(key, metric, scorer)
            digits = metric.digits + (error is not None)
            text = format_number(mean, f".{digits}f")
            texts.append(text if error is None else f"{text} ± {error:.{digits}f}")
            counts.append(n_seeds)
        if not any(counts):
            return NOT_TESTED
        if len(set(counts)) > 1:
            return " / ".join(text + seed_text(n) for text, n in zip(texts, counts, strict=True))
        return " / ".join(texts) + seed_text(counts[0])

    title = " / ".join(metric.title for metric in scorer.metrics)
    text = "Mean over runs that differ in their seed ± its standard error over seeds"
    cells = grid(groups, title, cell, costs)
    return Table(text, cells, score_notes(groups, scorer, costs))


def group_gains(groups):
    """Yield (reference group, group, key) of the gains over the first group."""
    for group in groups[1:]:
        for key in group.tests:
            base = reference(groups, group, key)
            if base is not None:
                yield base, group, key


def group_gain_table(groups, scorer):
    """Return the Table of gains over the first group."""
    first = groups[0]
    head = [f"gain over {first.label}", "scale", "set", "metric", "gain", "± over seeds"]
    cells, notes = [[*head, "± over images", "verdict"]], []
    for base, group, key in group_gains(groups):
        notes += [] if base is first else [f"gain of {group.label} over {base.label}"]
        notes += seed_notes(base, group, key)
        for metric in scorer.metrics:
            cells.append(_group_gain_cells(base, group, key, metric, scorer))
    text = (
        f"Gain over {first.label}. The error over seeds says whether training again would give "
        "the gain again, the error over images whether other images would."
    )
    text = " ".join([text, *order_notes(scorer.metrics)])
    notes += image_notes(groups, scorer) + [note for group in groups for note in group.notes]
    return Table(text, cells, list(dict.fromkeys(notes)))


def _group_gain_cells(first, group, key, metric, scorer):
    gain = group_gain(first, group, key, metric, scorer)
    form = f".{metric.digits + 1}f"
    seeds = images = UNKNOWN
    if gain.seed_error is not None:
        seeds = f"{gain.seed_error:{form}} ({gain.kind})"
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
    """Return CSV in full precision: a line for each test, with its gains."""
    names = [metric.name for metric in scorer.metrics]
    gain_names = [f"{name}_gain{end}" for name in names for end in ("", "_se")]
    heads = [*COLUMNS, *names, *gain_names, "gain_n", *SETTING_COLUMNS]
    lines = [[*heads, *(("parameters", "multiply_adds") if costs else ())]]
    for row in rows:
        for key, test in row.tests.items():
            base, gains = reference(rows, row, key), None
            if base is not None:
                gains, _ = image_gains(base, row, key, scorer)
            values = [row.folder.name, row.label, *key, test.get("epoch"), test.get("images")]
            values += [scorer.mean(row, key, metric) for metric in scorer.metrics]
            for name in names:
                values += gains[name][:2] if gains else [None, None]
            counts = [gain.n for gain in gains.values() if gain.n] if gains else []
            n_images = " / ".join(map(str, counts if len(set(counts)) > 1 else counts[:1]))
            values += [n_images, *(row.how[name] if row.run else None for name in SETTING_COLUMNS)]
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
    lines = [[*heads, "gain_se_images", "gain_n_images", "notes"]]
    bases = {(group.label, key): base for base, group, key in group_gains(groups)}
    for group in groups:
        runs = "+".join(row.folder.name for row in group.rows)
        for key in group.tests:
            base = bases.get((group.label, key))
            notes = [*group.notes, *image_notes([g for g in (base, group) if g], scorer)]
            notes += seed_notes(base, group, key) if base else []
            for metric in scorer.metrics:
                values = [group.label, runs, *key, metric.name]
                values += group.summary(key, metric, scorer)
                values += group_gain(base, group, key, metric, scorer) if base else [None] * 6
                values.append("; ".join(dict.fromkeys(notes)))
                lines.append([_text(value) for value in values])
    return _write_csv(lines)
