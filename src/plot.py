"""Curves of an experiment, as PDF for papers and PNG for a quick look."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator


def draw(folder, name, curves, ylabel, title):
    """Draw curves over epochs into folder/name.pdf and .png.

    Args:
        folder: a Path.
        name: name of the files without ending.
        curves: dict of label: (epochs, values).
        ylabel: label of the vertical axis, with the unit.
        title: title of the plot.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, (epochs, values) in curves.items():
        axes.plot(epochs, values, label=label, marker="o" if len(epochs) < 30 else None, markersize=3)
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    for ending in ("pdf", "png"):
        figure.savefig(folder / f"{name}.{ending}", dpi=120)
    plt.close(figure)


def draw_curves(folder, metrics):
    """Draw the PSNR of each test set and the mean of each loss term from the lines of metrics.jsonl."""
    sets = {}
    losses = {}
    for line in metrics:
        if line.get("dataset") and line["psnr"] is not None:
            curve = sets.setdefault(line["dataset"], {}).setdefault(f"x{line['scale']}", {})
            curve[line["epoch"]] = line["psnr"]
        for term, value in line.get("loss", {}).items():
            if value is not None:
                losses.setdefault(term, {})[line["epoch"]] = value
    if len(losses) == 2:  # one term and Total, which is the same
        losses.pop("Total")
    for name, curves in sets.items():
        points = {label: (list(curve), list(curve.values())) for label, curve in curves.items()}
        draw(folder, f"psnr_{name}", points, "PSNR (dB)", name)
    for term, curve in losses.items():
        draw(folder, f"loss_{term.replace(' ', '_')}", {term: (list(curve), list(curve.values()))}, "loss", term)
