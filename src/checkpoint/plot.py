"""Curves of an experiment: PDF for papers, PNG for a quick look."""

import gc

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from checkpoint.metrics import set_file_name, tests_of_training
from runtime.files import atomic_write

# coincident curves stay visible: each later one is thinner, dashed differently
STYLES = ("-", "--", "-.", ":")
FONT, SMALLEST_FONT = 10, 7  # points
FAMILY = "DejaVu Sans"  # comes with matplotlib, and has most characters


def style(family=FAMILY, points=FONT):
    """Return settings of matplotlib: TrueType fonts in PDF, text as it is written."""
    return {
        "pdf.fonttype": 42,  # IEEE refuses Type 3, the default
        "ps.fonttype": 42,
        "text.usetex": False,
        "text.parse_math": False,  # $ in a label would begin a formula
        "font.size": points,
        "font.family": [family, FAMILY],
    }


def plot_panels(
    folder, name, panels, ylabel, endings=("pdf", "png"), width=None, family=FAMILY, dpi=110
):
    """Draw curves over epochs into folder/NAME.pdf and .png, in panels with one shared legend.

    `panels` is {title: {label: {epoch: value}}}; a label has one color in all panels. `width` is in
    inches.
    """
    n_columns = next((n for n in (4, 3, 2) if len(panels) % n == 0), min(len(panels), 3))
    n_columns = min(n_columns, max(1, int(width / 1.5))) if width else n_columns
    n_rows = -(-len(panels) // n_columns)
    natural = max(5, 3.4 * n_columns)
    points = min(FONT, max(SMALLEST_FONT, FONT * (width or natural) / natural))
    size = (width or natural, max(3.2, 2.8 * n_rows) * points / FONT)
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    with rc_context(style(family, points)):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        handles = dict.fromkeys(labels)  # in the order of the legend
        for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
            for label, curve in curves.items():
                i = labels.index(label)
                look = {"linewidth": max(2.2 - 0.5 * i, 0.8), "color": f"C{i % 10}", "alpha": 0.85}
                look |= {"markersize": 4 - i % 3, "marker": "o" if len(curve) < 30 else None}
                lines = axis.plot(list(curve), list(curve.values()), STYLES[i % 4], **look)
                handles[label] = lines[0]
            _finish_axis(axis, title, curves, points)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        for axis in axes[:, 0]:
            axis.set_ylabel(ylabel)
        for axis in axes.flat[: len(panels)][-n_columns:]:
            axis.set_xlabel("epoch")
        if any(len(curves) > 1 for curves in panels.values()):
            _draw_legend(figure, handles, points)
        for ending in endings:
            with atomic_write(folder / f"{name}.{ending}") as file:
                figure.savefig(file, format=ending, dpi=dpi)


def _finish_axis(axis, title, curves, points):
    axis.set_title(title, fontsize=points)
    axis.ticklabel_format(useOffset=False)
    epochs = {epoch for curve in curves.values() for epoch in curve}
    if len(epochs) == 1:  # a range around it would have ticks between epochs
        axis.set_xticks(list(epochs))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.grid(alpha=0.3)


def _draw_legend(figure, handles, points):
    """Draw the legend below the panels, in as many columns as fit."""
    longest = max(map(len, handles)) * 0.6 + 4  # characters of handle and gaps
    n_columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / points / longest)))
    place = {"loc": "outside lower center", "ncols": n_columns, "frameon": False}
    legend = figure.legend(handles.values(), [""] * len(handles), **place)
    for text, label in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)  # labels that begin with _ are left out by matplotlib


def plot_curves(folder, metrics):
    """Draw the PSNR of each test set and each loss term from metrics.jsonl."""
    sets, losses = {}, {}
    for (dataset, scale), tests in tests_of_training(metrics).items():
        curve = {e: line["psnr"] for e, line in tests.items() if line["psnr"] is not None}
        if curve:
            sets.setdefault(dataset, {})[f"x{scale}"] = curve
    for line in metrics:
        for term, value in line.get("loss", {}).items():
            if value is not None:
                losses.setdefault(term, {})[line["epoch"]] = value
    if len(losses) == 2:  # Total is the same as the only term
        losses.pop("Total")
    for name, curves in sets.items():
        titles = {f"{name} {label}": {name: curve} for label, curve in curves.items()}
        plot_panels(folder, f"psnr_{set_file_name(name)}", titles, "PSNR (dB)")
    if losses:
        panels = {term: {"loss": curve} for term, curve in losses.items()}
        plot_panels(folder, "loss", panels, "mean of the epoch")
    # a figure consists of reference cycles, and a long run would keep hundreds of figures
    gc.collect()
