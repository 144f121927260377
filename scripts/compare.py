#!/usr/bin/env python3
"""Compare experiments: a table of PSNR and SSIM, and a picture of crops side by side.

scripts/compare.py bicubic EDSR EDSR-PCL
    prints a Markdown table from the last test of each set in experiment/NAME/metrics.jsonl
scripts/compare.py EDSR --figure pic/astronaut.png --data_test sample_test --image astronaut
    draws LR, bicubic, each experiment's SR and HR of an image that was tested with --save_results --save_gt
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "src"))
from data.image import read_image, to_channels
from data.resize import imresize
from errors import InputError
from metric import calc_psnr


def last_tests(folder):
    """Give {(dataset, scale): line} of the last test of each set in metrics.jsonl of an experiment."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"no such experiment: {folder} (no metrics.jsonl)")
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return {(line["dataset"], line["scale"]): line for line in lines if "dataset" in line}


def _label(folder):
    """Give the name of an experiment as tables and pictures show it."""
    return folder.name.removeprefix("quickstart_")


def table(folders):
    """Give a Markdown table: a row an experiment, a column a test set and scale, PSNR in dB / SSIM."""
    tests = [last_tests(folder) for folder in folders]
    columns = list(dict.fromkeys(key for test in tests for key in test))

    def cell(line):
        if line is None:
            return ""
        psnr, ssim = ("n/a" if line[key] is None else f"{line[key]:{form}}" for key, form in (("psnr", ".2f"), ("ssim", ".4f")))
        return f"{psnr} / {ssim}"

    rows = [["", *(f"{name} x{scale}" for name, scale in columns)], ["---", *["---"] * len(columns)]]
    rows += [[_label(f), *(cell(test.get(key)) for key in columns)] for f, test in zip(folders, tests, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _psnr(image, hr, scale):
    tensors = [torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in (image, hr)]
    return calc_psnr(*tensors, scale, 255)


def load_panels(folders, data_test, image):
    """Give (scale, HR, LR, {label: (image, PSNR)}) of a tested image; arrays are (H, W, 3) uint8."""
    results = folders[0] / f"results-{data_test}"
    found = sorted(results.glob(f"{image}_x*_HR.png"))
    if not found:
        raise InputError(f"no {image}_x*_HR.png in {results}: test with --save_results --save_gt first")
    scale = int(found[0].stem.removeprefix(f"{image}_x").removesuffix("_HR"))
    stem = f"{image}_x{scale}"
    hr, lr = (to_channels(read_image(results / f"{stem}_{kind}.png"), 3) for kind in ("HR", "LR"))
    panels = {"bicubic": imresize(lr, scale)}
    for folder in folders:
        panels[_label(folder)] = to_channels(read_image(folder / f"results-{data_test}" / f"{stem}_SR.png"), 3)
    return scale, hr, lr, {label: (panel, _psnr(panel, hr, scale)) for label, panel in panels.items()}


def choose_box(hr, bicubic, side):
    """Give (x, y) of the square in which bicubic upsampling errs most, which shows best what a network restores."""
    error = ((hr.astype(float) - bicubic) ** 2).mean(axis=2)
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(boxes[::4, ::4].argmax(), boxes[::4, ::4].shape)
    return 4 * int(x), 4 * int(y)


def draw(path, scale, hr, lr, panels, box):
    """Draw HR with the box, then the crop of LR, of each panel and of HR, with their PSNR."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    x, y, side = box
    crops = [("LR", np.kron(lr, np.ones((scale, scale, 1), np.uint8)), None)]
    crops += [(label, panel, psnr) for label, (panel, psnr) in panels.items()] + [("HR", hr, None)]
    wide = hr.shape[1] / hr.shape[0]
    figure, axes = plt.subplots(
        1, len(crops) + 1, figsize=(2.4 * (wide + len(crops)), 3.2), layout="constrained",
        gridspec_kw={"width_ratios": [wide, *[1] * len(crops)]},
    )  # fmt: skip
    axes[0].imshow(hr)
    axes[0].add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="red", linewidth=2))
    axes[0].set_title(f"HR, x{scale}")
    for axis, (label, image, psnr) in zip(axes[1:], crops, strict=True):
        axis.imshow(image[y : y + side, x : x + side], interpolation="nearest")
        axis.set_title(label if psnr is None else f"{label}\n{psnr:.2f} dB")
    for axis in axes:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv=None):
    """Print the table or draw the picture; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="names under experiment/")
    parser.add_argument("--dir_experiment", type=Path, default=PROJECT / "experiment")
    parser.add_argument("--figure", type=Path, help="draw this picture instead of the table")
    parser.add_argument("--data_test", help="test set of the picture")
    parser.add_argument("--image", help="name of the image, without ending")
    parser.add_argument(
        "--box", type=int, nargs=3, metavar=("X", "Y", "SIDE"), help="crop, HR pixels (default: where bicubic errs)"
    )
    args = parser.parse_args(argv)
    folders = [args.dir_experiment / name for name in args.experiments]
    try:
        if args.figure is None:
            print(table(folders))
            return 0
        if not (args.data_test and args.image):
            parser.error("--figure needs --data_test and --image")
        scale, hr, lr, panels = load_panels(folders, args.data_test, args.image)
        side = max(16, min(hr.shape[:2]) // 6)
        box = args.box or (*choose_box(hr, panels["bicubic"][0], side), side)
        draw(args.figure, scale, hr, lr, panels, box)
        print(f"drawn: {args.figure}")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
