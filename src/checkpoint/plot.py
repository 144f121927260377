"""Curves of an experiment: PDF for papers, PNG for a quick look."""

import gc

from runtime.process import use_file_backend

use_file_backend()
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from checkpoint.metrics import set_file_name, tests_of_training  # noqa: E402
from runtime.files import atomic_write  # noqa: E402

# coincident curves stay visible: each later one is thinner, dashed differently
STYLES = ("-", "--", "-.", ":")


def plot_panels(folder, name, panels, ylabel, endings=("pdf", "png")):
    """Draw curves over epochs into folder/NAME.pdf and .png, in panels with one shared legend.

    Args:
        folder: a Path.
        name: name of the files without ending.
        panels: dict of title: {label: {epoch: value}}.
        ylabel: label of the vertical axes, with the unit.
        endings: kinds of files.
    """
    n_columns = next(n for n in (4, 3, 2, 1) if len(panels) % n == 0 or (n < len(panels) < 4))
    n_columns = min(len(panels), 3) if n_columns == 1 else n_columns
    n_rows = -(-len(panels) // n_columns)
    size = (max(5, 3.4 * n_columns), max(3.2, 2.8 * n_rows))
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    handles = {}
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for i, (label, curve) in enumerate(curves.items()):
            marker = "o" if len(curve) < 30 else None
            (handles[label],) = axis.plot(
                list(curve), list(curve.values()), STYLES[i % 4], color=f"C{i}", label=label,
                marker=marker, markersize=4 - i % 3, linewidth=max(2.2 - 0.5 * i, 0.8), alpha=0.85,
            )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.ticklabel_format(useOffset=False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    for axis in axes.flat[: len(panels)][-n_columns:]:
        axis.set_xlabel("epoch")
    has_legend = any(len(curves) > 1 for curves in panels.values())
    figure.tight_layout(rect=(0, 0.3 / size[1] if has_legend else 0, 1, 1))
    if has_legend:
        figure.legend(
            handles.values(), handles, loc="lower center", ncols=len(handles), frameon=False
        )
    for ending in endings:
        with atomic_write(folder / f"{name}.{ending}") as file:
            figure.savefig(file, format=ending, dpi=110)
    plt.close(figure)


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
        titles = {f"{name} {label}": {label: curve} for label, curve in curves.items()}
        plot_panels(folder, f"psnr_{set_file_name(name)}", titles, "PSNR (dB)")
    if losses:
        panels = {term: {term: curve} for term, curve in losses.items()}
        plot_panels(folder, "loss", panels, "mean of the epoch")
    # a figure consists of reference cycles, and a long run would keep hundreds of figures
    gc.collect()
