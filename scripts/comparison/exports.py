"""Tables with ranks for papers and the page, LaTeX with the package booktabs, and CSV."""

import csv
import io
import re

from comparison.gains import Group, group_gain, image_gains, reference, seed_notes, summary
from comparison.scoring import image_notes, means_are_comparable, plural
from comparison.tables import (
    NOT_TESTED,
    Cell,
    Table,
    by_scale,
    cost_cells,
    group_gains,
    score_cell,
    score_notes,
    set_names,
    text_cell,
)

COLUMNS = ("experiment", "label", "dataset", "scale", "epoch", "images")
SETTING_COLUMNS = ("self_ensemble", "chop", "precision")
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": r"\textendash{}"}
    | {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$", "×": r"$\times$"}
)


def ranked_column(rows, key, metric, scorer):
    """Return {row id: Cell} of rows tested on a set, with the ranks of their means.

    Values that are printed alike share a rank, and so do groups of several seeds whose difference
    from the best one is not shown. Of fewer than three there is no second. Means that are not
    comparable have no rank.
    """
    tested = [row for row in rows if key in row.tests]
    cells = {id(row): score_cell(row, key, metric, scorer) for row in rows}
    known = [row for row in tested if cells[id(row)].value is not None]
    if len(known) < 2 or not means_are_comparable(tested, key, metric, scorer):
        return cells
    digits = metric.digits + 1
    grade = {r: round(metric.distance(float(cells[id(r)].text)), digits) for r in known}
    best = min(known, key=grade.get)

    def is_best(row):
        if grade[row] == grade[best] or row is best:
            return True
        if not all(isinstance(r, Group) and len(r.tests[key]) > 1 for r in (row, best)):
            return False
        return not group_gain(best, row, key, metric, scorer).shows_difference

    others = [row for row in known if not is_best(row)]
    for row in known if others else ():
        rank = "" if row in others else "best"
        if row in others and len(known) > 2 and grade[row] == min(map(grade.get, others)):
            rank = "second"
        cells[id(row)] = cells[id(row)]._replace(rank=rank)
    return cells


def rank_note(rows):
    """Return a sentence about the ranks in a table."""
    text = "Bold is the best value"
    if sum(isinstance(row, Group) for row in rows) > 1:
        text += ", and a group that shows no difference from it in a t-test over seeds (95 %)"
    return text + ("; the second is underlined" if len(rows) > 2 else "")


def ranked_table(rows, scorer, costs=None):
    """Return the Table of the means of rows and groups with a column for each set and metric."""
    keys, lines = set_names(rows), []
    for scale, tested in by_scale(rows):
        columns = [
            ranked_column(tested, (name, scale), metric, scorer)
            for name in keys
            for metric in scorer.metrics
        ]
        for row in tested:
            start = [text_cell(row.label), Cell(f"x{scale}", scale)]
            values = [column[id(row)] for column in columns]
            lines.append([*start, *cost_cells(costs, row, scale), *values])
    heads = ["method", "scale", *(["parameters", "multiply-adds"] if costs else [])]
    heads += [f"{name} {metric.title}" for name in keys for metric in scorer.metrics]
    notes = [rank_note(rows)] if any(cell.rank for row in lines for cell in row) else []
    notes += [*_seed_counts(rows, scorer), *score_notes(rows, scorer, costs)]
    return Table("Scores", heads, lines, notes)


def _seed_counts(rows, scorer):
    """Return sentences about the seeds behind each mean of groups."""
    notes = []
    for group in rows:
        counts = {}  # number of seeds: where
        for key in group.tests if isinstance(group, Group) else ():
            for metric in scorer.metrics:
                where = f"{metric.name} on {key[0]} x{key[1]}"
                counts.setdefault(summary(group, key, metric, scorer)[2], []).append(where)
        for n_seeds, where in counts.items():
            text = f"{group.label}: mean over {plural(n_seeds, 'seed')}"
            notes.append(text + (f" of {', '.join(where)}" if len(counts) > 1 else ""))
    return notes


def escape_latex(text):
    """Return text as LaTeX prints it."""
    text = re.sub("-(?=-)", "-{}", text.translate(LATEX))  # -- is a dash
    # \\\\ would take a following [ or * as its own
    return "{}" + text if text[:1] in ("[", "*") else text


def latex(rows, scorer, costs=None):
    r"""Return a LaTeX table in the layout of papers; it needs \usepackage{booktabs}.

    Rows are methods by scale, columns the metrics of each data set.
    """
    table, names = ranked_table(rows, scorer, costs), set_names(rows)
    n_metrics, n_cost = len(scorer.metrics), 2 if costs else 0
    starts = [3 + n_cost + i * n_metrics for i in range(len(names))]
    rules = "".join(rf"\cmidrule(lr){{{i}-{i + n_metrics - 1}}}" for i in starts)
    sets = [rf"\multicolumn{{{n_metrics}}}{{c}}{{{escape_latex(name)}}}" for name in names]
    titles = ["Method", "Scale", *(["Params", "Multi-Adds"] if n_cost else [])]
    titles += [escape_latex(m.title.removesuffix(" (dB)")) for m in scorer.metrics] * len(names)
    layout = "ll" + "r" * n_cost + "c" * (len(names) * n_metrics)
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    lines += [" & ".join([*[""] * (2 + n_cost), *sets]) + r" \\", rules]
    lines.append(" & ".join(titles) + r" \\")
    scale = None
    for row in table.rows:
        lines += [r"\midrule"] if row[1].value != scale else []
        scale = row[1].value
        cells = [rf"$\times${scale}" if cell is row[1] else _latex_cell(cell) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in table.notes)])


def _latex_cell(cell):
    command = {"best": r"\textbf", "second": r"\underline"}.get(cell.rank)
    if cell.text == NOT_TESTED:
        return "--"
    text = f"{command}{{{cell.text}}}" if command else escape_latex(cell.text)
    return rf"{text} $\pm$ {cell.error}" if cell.error else text


# --------------------------------------------------------------------- CSV


def _write_csv(rows):
    out = io.StringIO()
    lines = [["" if x is None else repr(x) if isinstance(x, float) else x for x in r] for r in rows]
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def csv_text(rows, scorer, costs=None):
    """Return CSV in full precision: a line for each test, with its gains."""
    names = [metric.name for metric in scorer.metrics]
    gain_names = [f"{name}_gain{end}" for name in names for end in ("", "_se")]
    heads = [*COLUMNS, *names, *gain_names, "gain_n", *SETTING_COLUMNS]
    lines = [[*heads, *(("parameters", "multiply_adds") if costs else ())]]
    for row in rows:
        for key, test in row.tests.items():
            base = reference(rows, row, key)
            gains = image_gains(base, row, key, scorer)[0] if base is not None else None
            values = [row.folder.name, row.label, *key, test.get("epoch"), test.get("images")]
            values += [scorer.mean(row, key, metric) for metric in scorer.metrics]
            for name in names:
                values += gains[name][:2] if gains else [None, None]
            counts = [gain.n for gain in gains.values() if gain.n] if gains else []
            values.append(" / ".join(map(str, counts if len(set(counts)) > 1 else counts[:1])))
            values += [row.how[name] if row.run else None for name in SETTING_COLUMNS]
            values += (costs.cost(row, key[1]) or (None, None)) if costs else []
            lines.append(values)
    return _write_csv(lines)


def image_csv_text(rows, scorer):
    """Return one line an image as CSV, with every metric in full precision."""
    names = [metric.name for metric in scorer.metrics]
    lines = [["label", "dataset", "scale", "image", *names]]
    for row in rows:
        for key in row.tests:
            for image, found in (scorer.scores(row, key) or {}).items():
                lines.append([row.label, *key, image, *map(found.get, names)])
    return _write_csv(lines)


def group_csv_text(groups, scorer):
    """Return one line a group, set and metric as CSV in full precision."""
    heads = ["group", "runs", "dataset", "scale", "metric", "mean", "se_seeds", "n_seeds"]
    heads += ["gain", "gain_se_seeds", "gain_n_seeds", "gain_is_paired"]
    lines = [[*heads, "gain_se_images", "gain_n_images", "gain_margin_95", "notes"]]
    bases = {(group.label, key): base for base, group, key in group_gains(groups)}
    for group in groups:
        runs = "+".join(row.folder.name for row in group.rows)
        for key in group.tests:
            base = bases.get((group.label, key))
            notes = [*group.notes, *image_notes([g for g in (base, group) if g], scorer)]
            notes += seed_notes(base, group, key) if base else []
            for metric in scorer.metrics:
                values = [group.label, runs, *key, metric.name]
                values += summary(group, key, metric, scorer)
                gain = group_gain(base, group, key, metric, scorer) if base else None
                values += [*gain[:6], gain.margin] if gain else [None] * 7
                lines.append([*values, "; ".join(dict.fromkeys(notes))])
    return _write_csv(lines)
