"""Tables of rows and of groups: Markdown, CSV and LaTeX."""

import csv
import io
import re

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
        rows: rows or groups, with `label` and `tests` or `keys`.
        title: heading of the first column.
        cell: maps (row, key) to text.
        costs: cost.CostTable for two more columns, or None.
        skip: number of rows at the start that only count for the columns.
    """
    tested = {id(row): list(getattr(row, "tests", None) or row.keys) for row in rows}
    keys = list(dict.fromkeys(key for row in rows for key in tested[id(row)]))
    names = list(dict.fromkeys(name for name, _ in keys))
    heads = ["parameters", "multiply-adds"] if costs else []
    cells = [[title, "scale", *heads, *names]]
    for scale in sorted({scale for _, scale in keys}):
        for row in rows[skip:]:
            if any(other == scale for _, other in tested[id(row)]):
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


def score_table(rows, scorer, costs=None):
    """Return the Markdown table of the metrics' means."""
    title = " / ".join(metric.title for metric in scorer.metrics)
    cells = grid(rows, title, lambda row, key: value_text(row, key, scorer), costs)
    notes = [*dict.fromkeys(scorer.notes), *(costs.notes if costs else [])]
    if costs:
        notes.insert(0, "multiply-adds are for an SR image of 1280x720 pixels")
    return markdown(cells) + "".join(f"\n\n{note}." for note in notes)


def gain_table(rows, scorer):
    """Return the Markdown table of gains over the first row, with notes on missing values."""
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
    text = f"Gain over {first.label} in {metrics}: mean over n images ± its standard error. "
    cells = grid(rows, f"gain over {first.label}", cell, skip=1)
    text += f"{IMAGES_ONLY}\n\n{markdown(cells)}"
    return text + "".join(f"\n\n{', '.join(where)}: {note}." for note, where in notes.items())


# ------------------------------------------------------------------ groups


def group_table(groups, scorer):
    """Return the Markdown table of means over seeds with their standard errors."""

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
    text = "Mean over runs that differ in their seed ± its standard error over seeds\n\n"
    return text + markdown(grid(groups, title, cell))


def group_gain_table(groups, scorer):
    """Return the Markdown table of gains over the first group."""
    first = groups[0]
    head = [f"gain over {first.label}", "scale", "set", "metric", "gain", "± over seeds"]
    cells = [[*head, "± over images", "verdict"]]
    for group in groups[1:]:
        for key in (key for key in group.keys if key in first.keys):
            for metric in scorer.metrics:
                cells.append(_group_gain_cells(first, group, key, metric, scorer))
    text = (
        f"Gain over {first.label}. The error over seeds says whether training again would give "
        "the gain again, the error over images whether other images would.\n\n"
    )
    return text + markdown(cells)


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
        for key in group.keys:
            for metric in scorer.metrics:
                means = group.means(key, metric, scorer)
                values = [group.label, runs, *key, metric.name, *mean_and_error(means), len(means)]
                if group is not groups[0] and key in groups[0].keys:
                    values += group_gain(groups[0], group, key, metric, scorer)
                else:
                    values += [None] * 6
                lines.append([_text(value) for value in values])
    return _write_csv(lines)


# ------------------------------------------------------------------- LaTeX


def _escape(text):
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return text.replace("↓", r"$\downarrow$").replace("↑", r"$\uparrow$").replace("–", "--")


def _ranked(rows, key, metric, scorer):
    """Return {row id: LaTeX text} of a column: the best bold, the second underlined."""
    means = {id(row): scorer.mean(row, key, metric) for row in rows}
    texts = {i: format(mean, f".{metric.digits}f") for i, mean in means.items() if mean is not None}
    # equal as printed is equal
    order = sorted({float(text) for text in texts.values()}, reverse=not metric.lower_better)
    marks = {order[0]: r"\textbf{%s}"} if len(order) > 1 else {}
    if len(order) > 1:
        marks[order[1]] = r"\underline{%s}"
    return {i: marks.get(float(text), "%s") % text for i, text in texts.items()}


def latex(rows, scorer, costs=None):
    """Return a LaTeX table for the package booktabs, in the layout of papers.

    Rows are methods by scale, columns the metrics of each data set. The best value of a scale is
    bold, the second underlined.
    """
    keys = keys_of(rows)
    names = list(dict.fromkeys(name for name, _ in keys))
    metrics, n_cost = scorer.metrics, 2 if costs else 0
    spec = "ll" + "r" * n_cost + "c" * (len(names) * len(metrics))
    heads = ["", "", *[""] * n_cost]
    heads += [rf"\multicolumn{{{len(metrics)}}}{{c}}{{{_escape(name)}}}" for name in names]
    first = 3 + n_cost
    rules = "".join(
        rf"\cmidrule(lr){{{start}-{start + len(metrics) - 1}}}"
        for start in range(first, first + len(names) * len(metrics), len(metrics))
    )
    titles = ["Method", "Scale", *(["Params", "Multi-Adds"] if costs else [])]
    titles += [_escape(metric.title.replace(" (dB)", "")) for metric in metrics] * len(names)
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", rules, " & ".join(titles) + r" \\"]
    for scale in sorted({scale for _, scale in keys}):
        tested = [row for row in rows if any(key[1] == scale for key in row.tests)]
        columns = [
            _ranked([row for row in tested if (name, scale) in row.tests], (name, scale), m, scorer)
            for name in names
            for m in metrics
        ]
        lines.append(r"\midrule")
        for row in tested:
            cells = [_escape(row.label), rf"$\times${scale}"]
            cells += cost_texts(costs.cost(row, scale)) if costs else []
            cells += [column.get(id(row), "--") for column in columns]
            lines.append(" & ".join(cell.replace("–", "--") for cell in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
