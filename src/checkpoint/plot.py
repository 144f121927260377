"""Curves of an experiment, as PDF for papers and PNG for a quick look."""

import gc

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from runtime.files import atomic_write


def plot_panels(folder, name, panels, ylabel, endings=("pdf", "png")):
    """Draw curves over epochs into folder/name.pdf and .png, one panel beside the other.

    Args:
        folder: a Path.
        name: name of the files without ending.
        panels: dict of title: {label: {epoch: value}}.
        ylabel: label of the vertical axes, with the unit.
        endings: kinds of files.
    """
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(5, 3.4 * columns), max(3.2, 2.8 * rows)), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for label, curve in curves.items():
            axis.plot(
                list(curve),
                list(curve.values()),
                label=label,
                marker="o" if len(curve) < 30 else None,
                markersize=3,
            )
        axis.set_title(title, fontsize=10)
        axis.ticklabel_format(useOffset=False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.tight_layout()
    for ending in endings:
        with atomic_write(folder / f"{name}.{ending}") as file:
            figure.savefig(file, format=ending, dpi=110)
    plt.close(figure)


def plot_curves(folder, metrics):
    """Draw the PSNR of each test set, and a panel for each loss term, from the lines of metrics.jsonl."""
    sets, losses = {}, {}
    for line in metrics:
        if line.get("dataset") and line["psnr"] is not None:
            curve = sets.setdefault(line["dataset"], {}).setdefault(f"x{line['scale']}", {})
            curve.setdefault(
                line["epoch"], line["psnr"]
            )  # later lines are tests alone, with flags of their own
        for term, value in line.get("loss", {}).items():
            if value is not None:
                losses.setdefault(term, {})[line["epoch"]] = value
    if len(losses) == 2:  # one term and Total, which is the same
        losses.pop("Total")
    for name, curves in sets.items():
        titles = {f"{name} {label}": {label: curve} for label, curve in curves.items()}
        plot_panels(folder, f"psnr_{name.replace('/', '_')}", titles, "PSNR (dB)")
    if losses:
        plot_panels(
            folder,
            "loss",
            {term: {term: curve} for term, curve in losses.items()},
            "mean of the epoch",
        )
    # A figure is a web of cycles, which Python's own full collections are too rare for: a long run would hold hundreds of them.
    gc.collect()
