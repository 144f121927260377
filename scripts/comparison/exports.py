"""Tables for LaTeX with the package booktabs, and as CSV."""

import csv
import io
import re

from comparison.gains import Gain, gain_over, seed_notes, summary
from comparison.scoring import image_notes
from comparison.tables import NOT_TESTED, pairs_of, score_table

SETTING_COLUMNS = ("self_ensemble", "chop", "precision", "degradation")
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": r"\textendash{}"}
    | {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "×": r"$\times$"}
)


def escape_latex(text):
    """Return text as LaTeX prints it."""
    text = re.sub("-(?=-)", "-{}", text.translate(LATEX))  # -- is a dash
    # \\\\ would take a following [ or * as its own
    return "{}" + text if text[:1] in ("[", "*") else text


def latex(rows, scorer):
    r"""Return a LaTeX table in the layout of papers; it needs \usepackage{booktabs}.

    Rows are methods by scale, columns the metrics of each data set.
    """
    table = score_table(rows, scorer)
    n_metrics, n_start = len(table.metrics), len(table.columns)
    starts = [n_start + 1 + i * n_metrics for i in range(len(table.sets))]
    rules = "".join(rf"\cmidrule(lr){{{i}-{i + n_metrics - 1}}}" for i in starts)
    sets = [rf"\multicolumn{{{n_metrics}}}{{c}}{{{escape_latex(name)}}}" for name in table.sets]
    titles = ["Method", "Scale", "Params", "Multi-Adds"][:n_start]
    titles += [escape_latex(t.removesuffix(" (dB)")) for t in table.metrics] * len(sets)
    layout = "ll" + "r" * (n_start - 2) + "c" * (len(titles) - n_start)
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    lines += [" & ".join([""] * n_start + sets) + r" \\", rules, " & ".join(titles) + r" \\"]
    scale = None
    for row in table.rows:
        lines += [r"\midrule"] if row[1].value != scale else []
        scale = row[1].value
        cells = [rf"$\times${scale}" if cell is row[1] else _latex_cell(cell) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in table.rank_notes + table.notes)])


def _latex_cell(cell):
    command = {"best": r"\textbf", "second": r"\underline"}.get(cell.rank)
    if cell.text == NOT_TESTED:
        return "--"
    text = f"{command}{{{cell.text}}}" if command else escape_latex(cell.text)
    return rf"{text} $\pm$ {cell.error}" if cell.error else text


def _csv_text(rows):
    out = io.StringIO()
    lines = [["" if x is None else repr(x) if isinstance(x, float) else x for x in r] for r in rows]
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def row_csv(rows, scorer):
    """Return CSV in full precision: a line for each test, with its gains."""
    names = [metric.name for metric in scorer.metrics]
    gain_names = [f"{name}_gain{end}" for name in names for end in ("", "_se")]
    heads = ["experiment", "label", "dataset", "scale", "epoch", "images", *names, *gain_names]
    heads += ["gain_n", *SETTING_COLUMNS]
    lines = [[*heads, "parameters", "multiply_adds"] if scorer.with_costs else heads]
    bases = {(row, key): base for base, row, key in pairs_of(rows)}
    for row in rows:
        for key, test in row.tests.items():
            values = [row.folder.name, row.label, *key, test.get("epoch"), test.get("images")]
            values += [scorer.mean(row, key, metric) for metric in scorer.metrics]
            counts = []
            for metric in scorer.metrics:
                base = bases.get((row, key))
                gain = gain_over(base, row, key, metric, scorer) if base else Gain()
                values += [gain.mean, gain.image_error]
                counts += [gain.n_images] if gain.n_images else []
            values.append(" / ".join(map(str, counts if len(set(counts)) > 1 else counts[:1])))
            values += [test[name] if row.run else None for name in SETTING_COLUMNS]
            if scorer.with_costs:
                values += scorer.cost(row, key[1]) or (None, None)
            lines.append(values)
    return _csv_text(lines)


def group_csv(groups, scorer):
    """Return one line a group, set and metric as CSV in full precision."""
    heads = ["group", "runs", "dataset", "scale", "metric", "mean", "se_seeds", "n_seeds"]
    heads += ["gain", "gain_se_seeds", "gain_n_seeds", "gain_is_paired"]
    lines = [[*heads, "gain_se_images", "gain_n_images", "gain_margin_95", "notes"]]
    bases = {(group, key): base for base, group, key in pairs_of(groups)}
    for group in groups:
        runs = "+".join(row.folder.name for row in group.rows)
        for key in group.tests:
            base = bases.get((group, key))
            notes = [*group.notes, *image_notes([g for g in (base, group) if g], scorer)]
            notes += seed_notes(base, group, key) if base else []
            for metric in scorer.metrics:
                values = [group.label, runs, *key, metric.name]
                values += summary(group, key, metric, scorer)
                gain = gain_over(base, group, key, metric, scorer) if base else None
                values += [*gain[:6], gain.margin] if gain else [None] * 7
                lines.append([*values, "; ".join(dict.fromkeys(notes))])
    return _csv_text(lines)
