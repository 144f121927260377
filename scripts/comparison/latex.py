"""Tables for papers: LaTeX with the package booktabs."""

from comparison.common import plural, ranks
from comparison.gains import Group
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
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def escape(text):
    """Return text as LaTeX prints it."""
    return text.translate(SYMBOLS)


def _column(rows, key, metric, scorer):
    """Return {row id: LaTeX text}: the best value bold, the second underlined."""
    found, digits = {}, metric.digits
    for row in rows:
        is_group = isinstance(row, Group)
        mean, error, _ = (
            row.summary(key, metric, scorer)
            if is_group
            else (scorer.mean(row, key, metric), None, None)
        )
        if mean is not None:
            found[id(row)] = f"{mean:.{digits}f}", error
    places = ranks({i: mean for i, (mean, _) in found.items()}, rows, key, metric, scorer)
    texts = {}
    for i, (mean, error) in found.items():
        mark = (r"\textbf", r"\underline")[places[i]] if i in places else ""
        texts[i] = f"{mark}{{{mean}}}" if mark else mean
        texts[i] += "" if error is None else rf" $\pm$ {error:.{digits + 1}f}"
    return texts


def _seed_notes(groups, scorer):
    """Return sentences about the seeds behind each mean of groups."""
    notes = []
    for group in groups:
        counts = {}  # number of seeds: where
        for key in group.tests:
            for metric in scorer.metrics:
                n_seeds = group.summary(key, metric, scorer)[2]
                counts.setdefault(n_seeds, []).append(f"{metric.name} on {key[0]} x{key[1]}")
        for n_seeds, where in counts.items():
            text = f"{group.label}: mean over {plural(n_seeds, 'seed')}"
            notes.append(text + (f" of {', '.join(where)}" if len(counts) > 1 else ""))
    return notes


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
            # \\\\ would take a following [ or * as its own
            cells[0] = "{}" + cells[0] if cells[0][:1] in ("[", "*") else cells[0]
            cells.insert(1, rf"$\times${scale}")
            cells += [column.get(id(row), escape(NOT_TESTED)) for column in columns]
            lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    groups = [row for row in rows if isinstance(row, Group)]
    notes = [*_seed_notes(groups, scorer), *score_notes(rows, scorer, costs)]
    return "\n".join([*lines, *(f"% {note}" for note in notes)])
