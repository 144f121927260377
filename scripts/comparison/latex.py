"""Tables for papers: LaTeX with the package booktabs."""

from comparison.gains import Group, mean_and_error
from comparison.tables import NOT_TESTED, cost_texts, keys_of, score_notes

SYMBOLS = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "±": r"$\pm$",
        "–": "--",
    }
)


def escape(text):
    """Return text as LaTeX prints it."""
    return text.translate(SYMBOLS)


def _mean_and_error(row, key, metric, scorer):
    """Return (mean, standard error over seeds); the error is None except for groups."""
    if isinstance(row, Group):
        return mean_and_error(row.means(key, metric, scorer))
    return scorer.mean(row, key, metric), None


def _column(rows, key, metric, scorer):
    """Return {row id: LaTeX text}: the best value bold, the second underlined."""
    found = {id(row): _mean_and_error(row, key, metric, scorer) for row in rows}
    digits = metric.digits
    means = {i: f"{mean:.{digits}f}" for i, (mean, _) in found.items() if mean is not None}
    # values that are printed alike share a rank
    order = sorted({float(text) for text in means.values()}, reverse=not metric.lower_better)
    marks = dict(zip(order, (r"\textbf", r"\underline"), strict=False)) if len(order) > 1 else {}
    texts = {}
    for i, mean in means.items():
        mark, error = marks.get(float(mean)), found[i][1]
        texts[i] = f"{mark}{{{mean}}}" if mark else mean
        texts[i] += "" if error is None else rf" $\pm$ {error:.{digits + 1}f}"
    return texts


def _heading(names, metrics, n_cost):
    """Return the lines above the values: data sets, and the metrics of each."""
    n_metrics, first = len(metrics), 3 + n_cost
    starts = [first + i * n_metrics for i in range(len(names))]
    rules = "".join(rf"\cmidrule(lr){{{i}-{i + n_metrics - 1}}}" for i in starts)
    sets = [rf"\multicolumn{{{n_metrics}}}{{c}}{{{escape(name)}}}" for name in names]
    titles = ["Method", "Scale", *(["Params", "Multi-Adds"] if n_cost else [])]
    titles += [escape(metric.title.removesuffix(" (dB)")) for metric in metrics] * len(names)
    return [
        r"\toprule",
        " & ".join(["", "", *[""] * n_cost, *sets]) + r" \\",
        rules,
        " & ".join(titles) + r" \\",
    ]


def latex(rows, scorer, costs=None):
    r"""Return a LaTeX table in the layout of papers; it needs \usepackage{booktabs}.

    Rows are methods by scale, columns the metrics of each data set. The best value of a scale is
    bold, the second underlined. Groups have the standard error over their seeds.

    Args:
        rows: rows and groups.
        scorer: scoring.Scorer.
        costs: cost.CostTable for two more columns, or None.
    """
    keys = keys_of(rows)
    names = list(dict.fromkeys(name for name, _ in keys))
    metrics, n_cost = scorer.metrics, 2 if costs else 0
    layout = "ll" + "r" * n_cost + "c" * (len(names) * len(metrics))
    lines = [rf"\begin{{tabular}}{{{layout}}}", *_heading(names, metrics, n_cost)]
    for scale in sorted({scale for _, scale in keys}):
        tested = [row for row in rows if any(other == scale for _, other in row.tests)]
        columns = [
            _column([r for r in tested if (name, scale) in r.tests], (name, scale), m, scorer)
            for name in names
            for m in metrics
        ]
        lines.append(r"\midrule")
        for row in tested:
            cells = [row.label, *(cost_texts(costs.cost(row, scale)) if costs else [])]
            cells = [escape(cell) for cell in cells]
            cells.insert(1, rf"$\times${scale}")
            cells += [column.get(id(row), escape(NOT_TESTED)) for column in columns]
            lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [
        *score_notes(scorer, costs),
        *(n for r in rows if isinstance(r, Group) for n in r.notes),
    ]
    return "\n".join([*lines, *(f"% {note}" for note in notes)])
