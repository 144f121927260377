"""Tables of scores and of gains, and how they read in Markdown."""

import re
from typing import NamedTuple

from checkpoint.metrics import scores_file
from comparison.gains import Group, gain_over, reference, seed_notes, summary
from comparison.scoring import image_notes, means_are_comparable, plural, tests_of

NOT_TESTED, UNKNOWN = "–", "n/a"
IMAGES_ONLY = (
    "The error is over images only: it does not cover the spread between seeds (see --group)."
)
OF_GROUPS = (
    "The error over seeds says whether training again would give the gain again, the error over "
    "images whether other images would. The interval is that of a t-test over seeds."
)
# what Markdown takes as its own; an underscore inside a word is left alone
MARKUP = re.compile(r"[\\`*<|$~]|(?<![^\W_])_|_(?![^\W_])|\[(?=[^\]]*\]\()|&(?=#?\w+;)")


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: object = None  # what sorts the cell: a number, a text, or None if it is unknown
    error: str = ""  # standard error over seeds
    rank: str = ""  # best or second

    @property
    def whole(self):
        """The text with the error."""
        return f"{self.text} ± {self.error}" if self.error else self.text


class Table(NamedTuple):
    """A table with sentences around it. After some columns, there may be one a set and metric."""

    title: str  # sentences above, or ""
    columns: list  # headings of the first columns
    rows: list  # of lists of Cell
    notes: list  # sentences below, without their full stop
    sets: list = []  # names of data sets
    metrics: list = []  # titles of metrics
    rank_notes: list = []  # a sentence on ranks, which Markdown does not show

    @property
    def headings(self):
        """The headings of all columns."""
        return self.columns + [f"{name} {title}" for name in self.sets for title in self.metrics]

    def markdown(self):
        """Return Markdown that also reads well as plain text; a column has all metrics of a set."""
        start, step = len(self.columns), max(len(self.metrics), 1)
        cells = [[*self.columns, *self.sets]]
        for row in self.rows:
            texts = [cell.whole for cell in row]
            parts = [texts[i : i + step] for i in range(start, len(row), step)]
            empty = [NOT_TESTED] * step, [UNKNOWN] * step
            cells.append(texts[:start] + [p[0] if p in empty else " / ".join(p) for p in parts])
        cells = [[MARKUP.sub(r"\\\g<0>", text) for text in row] for row in cells]
        cells.insert(1, ["---"] * len(cells[0]))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = [[text.ljust(w) for text, w in zip(row, widths, strict=True)] for row in cells]
        lines = "\n".join("| " + " | ".join(row) + " |" for row in padded)
        return "\n\n".join([*filter(None, [self.title]), lines, *(f"{n}." for n in self.notes)])


def text_cell(text):
    """Return a Cell that is sorted by its text."""
    return Cell(text, text)


def number_cell(value, digits, sign="", error=None):
    """Return the Cell of a number, or n/a for None."""
    text = UNKNOWN if value is None else f"{value:{sign}.{digits}f}"
    return Cell(text, value, "" if error is None else f"{error:.{digits}f}")


def _cost_cells(row, scale, scorer):
    """Return the Cells of parameters and multiply-adds, as papers print them."""
    cost = scorer.cost(row, scale)
    if cost is None or cost.parameters == 0:
        return [Cell(NOT_TESTED)] * 2
    texts = f"{cost.parameters / 1e3:,.0f} K", f"{cost.multiply_adds / 1e9:,.1f} G"
    return [Cell(text, value) for text, value in zip(texts, cost, strict=True)]


def _score_column(rows, key, metric, scorer):
    """Return the Cells of the means of rows and groups on a set, with their ranks.

    Values that are printed alike share a rank, and so do groups of several seeds whose difference
    from the best one is not shown. Of fewer than three there is no second. Means that are not
    comparable have no rank.
    """
    cells, grades = [], {}
    for row in rows:
        mean, error, _ = summary(row, key, metric, scorer)
        digits = metric.digits + (error is not None)  # a mean over seeds has one digit more
        cell = number_cell(mean, digits, error=error)
        cells.append(cell if key in row.tests else Cell(NOT_TESTED))
        if mean is not None:
            grades[row] = round(metric.distance(float(cell.text)), metric.digits + 1)
    tested = [row for row in rows if key in row.tests]
    if len(grades) < 2 or not means_are_comparable(tested, key, metric, scorer):
        return cells
    best = min(grades, key=grades.get)

    def is_best(row):
        if grades[row] == grades[best]:
            return True
        if not all(isinstance(r, Group) and len(tests_of([r], key)) > 1 for r in (row, best)):
            return False
        gain = gain_over(best, row, key, metric, scorer)
        return gain.margin is not None and not gain.shows_difference

    ranks = {row: "best" for row in grades if is_best(row)}
    others = [grades[row] for row in grades if row not in ranks]
    if not others:
        return cells
    if len(grades) > 2:
        ranks |= {r: "second" for r in grades if r not in ranks and grades[r] == min(others)}
    return [cell._replace(rank=ranks.get(row, "")) for row, cell in zip(rows, cells, strict=True)]


def score_table(rows, scorer):
    """Return the Table of the means of rows and of groups, with a line for each scale."""
    names, lines = list(dict.fromkeys(name for row in rows for name, _ in row.tests)), []
    titles = [metric.title for metric in scorer.metrics]
    for scale in sorted({scale for row in rows for _, scale in row.tests}):
        tested = [row for row in rows if any(other == scale for _, other in row.tests)]
        keys = [(name, scale) for name in names]
        columns = [_score_column(tested, key, m, scorer) for key in keys for m in scorer.metrics]
        for row, *cells in zip(tested, *columns, strict=True):
            costs = _cost_cells(row, scale, scorer) if scorer.with_costs else []
            lines.append([text_cell(row.label), Cell(f"x{scale}", scale), *costs, *cells])
    notes = [*_seed_counts(rows, scorer), *image_notes(rows, scorer)]
    notes += [note for row in rows for note in row.notes]
    notes += scorer.notes  # now that all cells are known
    heads = [" / ".join(titles), "scale"]
    if scorer.with_costs:
        heads += ["parameters", "multiply-adds"]
        notes.append("multiply-adds are for an SR image of 1280x720 pixels")
    return Table("", heads, lines, notes, names, titles, _rank_notes(lines, rows))


def _rank_notes(lines, rows):
    """Return a sentence about the ranks of cells, if there are ranks."""
    text = "Bold is the best value"
    if sum(isinstance(row, Group) for row in rows) > 1:
        text += ", and a group that shows no difference from it in a t-test over seeds (95 %)"
    text += "; the second is underlined" if len(rows) > 2 else ""
    return [text] if any(cell.rank for line in lines for cell in line) else []


def _seed_counts(rows, scorer):
    """Return sentences about the seeds behind each mean of groups."""
    notes = []
    for group in rows:
        counts = {}  # number of seeds: where
        for key in group.tests if isinstance(group, Group) else ():
            for metric in scorer.metrics:
                where = f"{metric.name} on {key[0]} x{key[1]}"
                counts.setdefault(summary(group, key, metric, scorer)[2], []).append(where)
        counts.pop(0, None)
        for n_seeds, where in counts.items():
            error = " ± its standard error" if n_seeds > 1 else ""
            of_what = f", {', '.join(where)}" if len(counts) > 1 else ""
            notes.append(f"{group.label}: mean over {plural(n_seeds, 'seed')}{error}{of_what}")
    return notes


def pairs_of(rows):
    """Return (reference, row, key) of each test of rows or groups that has a gain."""
    pairs = [(reference(rows, row, key), row, key) for row in rows[1:] for key in row.tests]
    return [pair for pair in pairs if pair[0] is not None]


def _order_notes(metrics):
    """Return a sentence for each metric whose highest value is not the best."""
    unusual = [metric for metric in metrics if metric.lower_better or metric.target is not None]
    best = ["the lowest" if m.target is None else f"{m.target:g}" for m in unusual]
    return [f"The best {m.title} is {text}." for m, text in zip(unusual, best, strict=True)]


def _gain_cells(gain, metric):
    """Return the Cells of a Gain: metric, mean, errors over images and over seeds, verdict."""
    digits, images, seeds = metric.digits + 1, UNKNOWN, UNKNOWN
    if gain.image_error is not None:
        images = f"{gain.image_error:.{digits}f} (n={gain.n_images})"
    if gain.seed_error is not None:
        seeds = f"{gain.seed_error:.{digits}f} ({gain.kind})"
    return [
        text_cell(metric.title),
        number_cell(gain.mean, digits, "+"),
        *(Cell(images, gain.image_error), Cell(seeds, gain.seed_error)),
        text_cell(gain.verdict(digits)),
    ]


def gain_table(rows, scorer):
    """Return the Table of gains over the first row, or of gains of groups over the first one."""
    first, lines, notes = rows[0], [], []
    heads = [f"gain over {first.label}", "scale", "set", "metric", "gain", "± over images"]
    heads += ["± over seeds", "verdict"] if isinstance(first, Group) else []
    for base, row, key in pairs_of(rows):
        where = f"{key[0]} x{key[1]}"
        notes += [] if base is first else [f"{where}: gain of {row.label} over {base.label}"]
        notes += seed_notes(base, row, key)
        for test in tests_of([base, row], key):
            if test.run and scorer.scores(test, key) is None:
                folder = scores_file(test.folder, test.tests[key], test.run.best).parent
                lacks = f"no standard error for {test.label}: {folder} lacks this test"
                notes.append(f"{where}: {lacks}; repeat the test")
        for metric in scorer.metrics:
            gain = gain_over(base, row, key, metric, scorer)
            start = [text_cell(row.label), Cell(f"x{key[1]}", key[1]), text_cell(key[0])]
            lines.append([*start, *_gain_cells(gain, metric)][: len(heads)])
    notes += image_notes(rows, scorer) + [note for row in rows for note in row.notes]
    text = OF_GROUPS if isinstance(first, Group) else IMAGES_ONLY
    title = " ".join([f"Gain over {first.label}.", *_order_notes(scorer.metrics), text])
    return Table(title, heads, lines, list(dict.fromkeys(notes)))
