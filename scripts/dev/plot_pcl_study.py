#!/usr/bin/env python3
"""Print the table of the study in docs/pcl.md, and draw PSNR against the other metrics.

    scripts/compare.py study/L1_s1 study/none study/nce_0.15 ... --csv study.csv \\
        --metrics psnr,ssim,haar,gmsd,niqe
    scripts/dev/plot_pcl_study.py study.csv OUT.png [--data_test BSDS400]

Gains are over the first row, with standard errors over images. A curve joins the experiments of a
form, such as nce in nce_0.6, in the order of the file.
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "haar": "HF energy",
    "gmsd": "GMSD (lower is better)",
    "niqe": "NIQE (lower is better)",
}
NEAR = 0.015  # dB: smaller gains lie too close together to print their weights
DIGITS = {"psnr": 3, "ssim": 4, "haar": 3, "gmsd": 4, "niqe": 2}


def read_rows(path, dataset):
    """Return the rows of the CSV file that have gains on a data set."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    return [row for row in rows if row["psnr_gain"]]


def name_parts(row):
    """Return (form, weight) of an experiment: ("nce", "0.6") of nce_0.6."""
    form, _, weight = row["experiment"].rpartition("_")
    return form or weight, weight


def gradient_range(name):
    """Return the smallest and largest epoch mean of the contrastive gradient over L1's, as text."""
    means = []
    for line in (ROOT / "experiment/study" / name / "metrics.jsonl").read_text().splitlines():
        losses = json.loads(line).get("loss", {})
        means += [value for key, value in losses.items() if key.endswith("gradient/L1")]
    return f"{min(means):.2f} to {max(means):.2f}" if means else ""


def table(rows, metrics):
    """Return the gains as a Markdown table."""
    cells = [["experiment", "gradient / L1's", *(TITLES[name] for name in metrics)]]
    cells.append(["---"] * len(cells[0]))
    for row in rows:
        gains = [(float(row[f"{m}_gain"]), float(row[f"{m}_gain_se"]), DIGITS[m]) for m in metrics]
        texts = [f"{mean:+.{digits}f} ± {error:.{digits}f}" for mean, error, digits in gains]
        cells.append([row["experiment"], gradient_range(row["experiment"]), *texts])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def draw(rows, metrics, out):
    """Draw a panel for each metric, with one legend for all of them."""
    n_rows = math.ceil(len(metrics) / 2)
    figure, panels = plt.subplots(n_rows, 2, figsize=(10, 4 * n_rows), sharey=True, squeeze=False)
    forms = {}
    for row in rows:
        forms.setdefault(name_parts(row)[0], []).append(row)
    for panel in panels.flat[len(metrics) :]:
        panel.remove()
    for panel, metric in zip(panels.flat, metrics, strict=False):
        panel.axhline(0, color="0.8")
        panel.axvline(0, color="0.8")
        for form, runs in forms.items():
            x, y, x_error, y_error = (
                [float(row[f"{name}_gain{end}"]) for row in runs]
                for end in ("", "_se")
                for name in (metric, "psnr")
            )
            are_seeds = name_parts(runs[0])[1].startswith("s")
            style = {"marker": "o", "capsize": 2, "linestyle": "" if are_seeds else "-"}
            panel.errorbar(x, y, y_error, x_error, label=form, **style)
            for row, *point in zip(runs, x, y, strict=True):
                if abs(point[1]) > NEAR:
                    weight = name_parts(row)[1]
                    panel.annotate(weight, point, (4, 4), textcoords="offset points", fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set_xlabel(f"gain in {TITLES[metric]}")
    figure.supylabel("gain in PSNR (dB)")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    figure.set_layout_engine("constrained")
    figure.savefig(out, dpi=100)


def main(argv=None):
    """Print the table, draw the picture and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data_test", default="BSDS400")
    args = parser.parse_args(argv)
    rows = read_rows(args.csv, args.data_test)
    if not rows:
        parser.error(f"{args.csv} has no gains on {args.data_test}")
    metrics = [name for name in TITLES if rows[0].get(f"{name}_gain")]
    print(table(rows, metrics))
    draw(rows, metrics[1:], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
