"""Tables of rows and of groups, and how they read in Markdown."""

import re
from typing import NamedTuple

from comparison.gains import Group, group_gain, image_gains, reference, seed_notes, summary
from comparison.scoring import image_notes, plural

NOT_TESTED, UNKNOWN = "–", "n/a"
GAIN_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
IMAGES_ONLY = (
    "The error is over images only: it does not cover the spread between seeds (see --group)."
)
# what Markdown takes as its own; an underscore inside a word is left alone
MARKUP = re.compile(r"[\\`*<|$~]|(?<![^\W_])_|_(?![^\W_])|\[(?=[^\]]*\]\()|&(?=#?\w+;)")


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: object  # what sorts the cell: a number, a text, or None if it is unknown
    error: str = ""  # standard error over seeds
    rank: str = ""  # best or second

    @property
    def whole(self):
        """The text with the error."""
        return f"{self.text} ± {self.error}" if self.error else self.text


class Table(NamedTuple):
    """A table with sentences around it."""

    title: str  # sentences above, or ""
    columns: list  # headings
    rows: list  # of lists of Cell
    notes: list  # sentences below, without their full stop

    def markdown(self):
        """Return the table as Markdown that also reads well as plain text."""
        cells = [self.columns, *([cell.whole for cell in row] for row in self.rows)]
        cells = [[MARKUP.sub(r"\\\g<0>", text) for text in row] for row in cells]
        cells.insert(1, ["---"] * len(self.columns))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = [[text.ljust(w) for text, w in zip(row, widths, strict=True)] for row in cells]
        lines = "\n".join("| " + " | ".join(row) + " |" for row in padded)
        return "\n\n".join([*filter(None, [self.title]), lines, *(f"{n}." for n in self.notes)])


def text_cell(text):
    """Return a Cell that is sorted by its text."""
    return Cell(text, text)


def format_number(value, form):
    """Return a number in a format, or n/a for None."""
    return UNKNOWN if value is None else format(value, form)


def keys_of(rows):
    """Return the (dataset, scale) of all rows, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.tests))


def set_names(rows):
    """Return the names of the data sets of all rows."""
    return list(dict.fromkeys(name for name, _ in keys_of(rows)))


def by_scale(rows):
    """Yield (scale, rows that were tested at it)."""
    for scale in sorted({scale for _, scale in keys_of(rows)}):
        yield scale, [row for row in rows if any(other == scale for _, other in row.tests)]


def cost_cells(costs, row, scale):
    """Return the Cells of parameters and multiply-adds, as papers print them; [] without costs."""
    if costs is None:
        return []
    cost = costs.cost(row, scale)
    if cost is None or cost.parameters == 0:
        return [Cell(NOT_TESTED, None)] * 2
    texts = f"{cost.parameters / 1e3:,.0f} K", f"{cost.multiply_adds / 1e9:,.1f} G"
    return [Cell(text, value) for text, value in zip(texts, cost, strict=True)]


def joined_table(rows, heading, cell, costs=None, skip=0):
    """Return (columns, rows) of a table with a column for each data set.

    `cell` maps (row or group, key) to a Cell. The first `skip` rows only count for the columns.
    """
    names, lines = set_names(rows), []
    for scale, tested in by_scale(rows):
        for row in tested:
            if row not in rows[:skip]:
                start = [text_cell(row.label), Cell(f"x{scale}", scale)]
                cells = [cell(row, (name, scale)) for name in names]
                lines.append([*start, *cost_cells(costs, row, scale), *cells])
    costs_heads = ["parameters", "multiply-adds"] if costs else []
    return [heading, "scale", *costs_heads, *names], lines


def score_notes(rows, scorer, costs=None):
    """Return sentences about a table of rows or groups; its cells must be known."""
    notes = image_notes(rows, scorer)
    notes += [note for row in rows for note in getattr(row, "notes", [])]
    notes += dict.fromkeys(scorer.notes)
    if costs:
        notes += ["multiply-adds are for an SR image of 1280x720 pixels", *costs.notes]
    return notes


def score_cell(row, key, metric, scorer):
    """Return the Cell of a mean; with an error over seeds, both have one digit more."""
    if key not in row.tests:
        return Cell(NOT_TESTED, None)
    mean, error, _ = summary(row, key, metric, scorer)
    form = f".{metric.digits + (error is not None)}f"
    return Cell(format_number(mean, form), mean, "" if error is None else format(error, form))


def score_table(rows, scorer, costs=None):
    """Return the Table of the means of rows, or of groups over their seeds."""

    def cell(row, key):
        cells = [score_cell(row, key, metric, scorer) for metric in scorer.metrics]
        texts = [cell.whole for cell in cells]
        if key not in row.tests or not isinstance(row, Group):
            text = NOT_TESTED if key not in row.tests else " / ".join(texts)
            return Cell(text, cells[0].value)
        counts = [summary(row, key, metric, scorer)[2] for metric in scorer.metrics]
        if not any(counts):
            return Cell(NOT_TESTED, None)
        seeds = [f" ({plural(n, 'seed')})" for n in counts]
        if len(set(counts)) == 1:
            seeds[:-1] = [""] * (len(seeds) - 1)
        text = " / ".join(map("".join, zip(texts, seeds, strict=True)))
        return Cell(text, cells[0].value)

    heading = " / ".join(metric.title for metric in scorer.metrics)
    columns, lines = joined_table(rows, heading, cell, costs)
    is_groups = bool(rows) and isinstance(rows[0], Group)
    title = "Mean over runs that differ in their seed ± its standard error over seeds"
    return Table(title if is_groups else "", columns, lines, score_notes(rows, scorer, costs))


def order_notes(metrics):
    """Return a sentence for each metric whose highest value is not the best."""
    notes = []
    for metric in metrics:
        if metric.target is not None:
            notes.append(f"The best {metric.title} is {metric.target:g}.")
        elif metric.lower_better:
            notes.append(f"The best {metric.title} is the lowest.")
    return notes


def _gain_text(gains, metrics):
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
            return Cell(NOT_TESTED, None)
        gains, note = image_gains(base, row, key, scorer)
        if base is not first:
            notes.setdefault(f"gain of {row.label} over {base.label}", []).append(key)
        if note:
            notes.setdefault(note, []).append(key)
        if gains is None:
            return Cell(UNKNOWN, None)
        return Cell(_gain_text(gains, scorer.metrics), gains[scorer.metrics[0].name].mean)

    metrics = " / ".join(metric.title for metric in scorer.metrics)
    title = f"Gain over {first.label} in {metrics}: mean over n images ± its standard error."
    title = " ".join([title, *order_notes(scorer.metrics), IMAGES_ONLY])
    columns, lines = joined_table(rows, f"gain over {first.label}", cell, skip=1)
    where = {
        note: ", ".join(f"{name} x{scale}" for name, scale in keys) for note, keys in notes.items()
    }
    return Table(title, columns, lines, [f"{sets}: {note}" for note, sets in where.items()])


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
    columns = [f"gain over {first.label}", "scale", "set", "metric", "gain", "± over seeds"]
    lines, notes = [], []
    for base, group, key in group_gains(groups):
        notes += [] if base is first else [f"gain of {group.label} over {base.label}"]
        notes += seed_notes(base, group, key)
        for metric in scorer.metrics:
            lines.append(_group_gain_cells(base, group, key, metric, scorer))
    text = (
        f"Gain over {first.label}. The error over seeds says whether training again would give "
        "the gain again, the error over images whether other images would. The interval is that "
        "of a t-test over seeds."
    )
    text = " ".join([text, *order_notes(scorer.metrics)])
    notes += image_notes(groups, scorer) + [note for group in groups for note in group.notes]
    return Table(text, [*columns, "± over images", "verdict"], lines, list(dict.fromkeys(notes)))


def _group_gain_cells(first, group, key, metric, scorer):
    gain, digits = group_gain(first, group, key, metric, scorer), metric.digits + 1
    seeds = images = UNKNOWN
    if gain.seed_error is not None:
        seeds = f"{gain.seed_error:.{digits}f} ({gain.kind})"
    if gain.image_error is not None:
        images = f"{gain.image_error:.{digits}f} (n={gain.n_images})"
    name = GAIN_NAMES.get(metric.name, metric.title)
    return [
        *(text_cell(group.label), Cell(f"x{key[1]}", key[1]), *map(text_cell, (key[0], name))),
        Cell(format_number(gain.mean, f"+.{digits}f"), gain.mean),
        *(Cell(seeds, gain.seed_error), Cell(images, gain.image_error)),
        text_cell(gain.verdict(digits)),
    ]
