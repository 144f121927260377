#!/usr/bin/env python3
"""Draw the samples of PCL-SR's contrastive loss, and their Haar high frequencies.

scripts/dev/draw_pcl_samples.py IMAGE OUT.png [--scale 4] [--box X Y SIDE]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

import torch
from matplotlib.figure import Figure

from data.image import read_image, to_channels, to_tensor, to_uint8
from data.resize import downsample
from loss.samples import gaussian_blur, quantize, sharpen, upsample
from loss.wavelet import haar_high_frequencies
from runtime.files import UserError


def make_samples(hr, scale):
    """Return positives and negatives: a list of (label, tensor (1, 3, H, W) in [0, 255]).

    `hr` is a uint8 array (H, W, 3) whose sides are multiples of 2 * scale.
    """
    lr = to_tensor(downsample(hr, scale))[None].float()
    x = to_tensor(hr)[None].float()
    samples = [
        ("HR\n(positive)", x),
        ("sharpened, 1.5\n(positive)", sharpen(x, torch.tensor([1.5]), 255)),
        ("sharpened, 3.0\n(positive)", sharpen(x, torch.tensor([3.0]), 255)),
        (f"LR x{scale}, bicubic\n(negative)", upsample(lr, x.shape[-2:])),
        ("blurred, 1.0\n(negative)", gaussian_blur(x, (7, 7), (1.0, 1.0), 255)),
        ("blurred, 2.0 x 0.5\n(negative)", gaussian_blur(x, (11, 11), (2.0, 0.5), 255)),
    ]
    return [(label, quantize(sample, 255)) for label, sample in samples]


def draw(samples, path):
    """Draw the samples above the mean strength of their Haar bands."""
    figure = Figure(figsize=(2.1 * len(samples), 4.9))
    axes = figure.subplots(2, len(samples))
    for (label, sample), top, bottom in zip(samples, axes[0], axes[1], strict=True):
        top.imshow(to_uint8(sample[0], 255))
        top.set_title(label, fontsize=10)
        strength = haar_high_frequencies(sample)[0].abs().mean(0)
        bottom.imshow(strength.numpy(), cmap="gray", vmin=0, vmax=40)
    axes[1, 0].set_title("Haar high frequencies", fontsize=10, loc="left")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(argv=None):
    """Draw the picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    box = {"type": int, "nargs": 3, "metavar": ("X", "Y", "SIDE")}
    parser.add_argument("--box", **box, help="part of the image (default: all)")
    args = parser.parse_args(argv)
    try:
        image = to_channels(read_image(args.image), 3)
        x, y, side = args.box or (0, 0, max(image.shape))
        image = image[y : y + side, x : x + side]
        step = 2 * args.scale
        image = image[: image.shape[0] // step * step, : image.shape[1] // step * step]
        draw(make_samples(image, args.scale), args.out)
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"drawn: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
