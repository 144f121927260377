#!/usr/bin/env python3
"""Draw the study of docs/pcl.md: gains in PSNR against those in other metrics.

    scripts/compare.py study/L1_s1 study/nce_0.15 study/nce_0.6 ... --metrics psnr,ssim,haar,gmsd \\
        --csv study.csv
    scripts/dev/plot_pcl_study.py study.csv OUT.png [--data_test BSDS400]

Gains are over the first row, with standard errors over images. A curve joins the experiments of a
form, such as nce in nce_0.6, in the order of the file.
"""

import argparse
import csv
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

TITLES = {
    "ssim": "SSIM (higher is better)",
    "gmsd": "GMSD (lower is better)",
    "niqe": "NIQE (lower is better)",
    "haar": "HF energy, share of HR's",
}


def read_forms(path, dataset):
    """Return {form: rows of the CSV file that were tested on a set}."""
    forms = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == dataset and row["psnr_gain"]:
                name = row["experiment"].rsplit("/", 1)[-1]
                forms.setdefault(name.rsplit("_", 1)[0], []).append(row)
    return forms


def draw(forms, metrics, out):
    """Draw a panel for each metric, with one legend for all of them."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(4.2 * len(metrics), 4), sharey=True)
    for panel, metric in zip([panels] if len(metrics) == 1 else panels, metrics, strict=True):
        panel.axhline(0, color="0.8")
        panel.axvline(0, color="0.8")
        for form, rows in forms.items():
            x, y, x_error, y_error = (
                [float(row[f"{name}_gain{end}"] or "nan") for row in rows]
                for end in ("", "_se")
                for name in (metric, "psnr")
            )
            style = {"marker": "o", "capsize": 2, "linestyle": "" if form == "L1" else "-"}
            panel.errorbar(x, y, y_error, x_error, label=form, **style)
            for row, *point in zip(rows, x, y, strict=True):
                weight = row["experiment"].rsplit("_", 1)[-1]
                panel.annotate(weight, point, (4, 4), textcoords="offset points", fontsize=7)
        panel.set_xlabel(f"gain in {TITLES.get(metric, metric)}")
    figure.supylabel("gain in PSNR (dB)")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    figure.set_layout_engine("constrained")
    figure.savefig(out, dpi=100)


def main(argv=None):
    """Draw the picture and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data_test", default="BSDS400")
    args = parser.parse_args(argv)
    forms = read_forms(args.csv, args.data_test)
    if not forms:
        parser.error(f"{args.csv} has no gains on {args.data_test}")
    row = next(iter(forms.values()))[0]
    metrics = [n for n in ("ssim", "haar", "gmsd", "niqe") if row.get(f"{n}_gain")]
    draw(forms, metrics, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
