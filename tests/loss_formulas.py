"""Formulas and images that the tests of loss values share. Nothing here calls the tested code."""

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from option import parse_args

SIDE = 32


def flags(text):
    return parse_args(f"--cpu --scale 2 --patch_size {SIDE} --batch_size 2 {text}".split())


def random_images(seed, batch=2, side=SIDE, rgb_range=255, n_colors=3):
    """Draw images with some structure in [0, rgb_range]: a smooth part and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, n_colors, side // 4, side // 4, generator=generator)
    noise = torch.rand(batch, n_colors, side, side, generator=generator)
    smooth = interpolate(coarse, size=(side, side), mode="bilinear")
    return (0.7 * smooth + 0.3 * noise) * rgb_range


def images_of_a_step(rgb_range=255):
    """Return sr, hr (2, 3, 32, 32) and lr (2, 3, 16, 16)."""
    sr, hr = random_images(1, rgb_range=rgb_range), random_images(2, rgb_range=rgb_range)
    return sr, hr, random_images(3, side=SIDE // 2, rgb_range=rgb_range)


def upsampled(lr, rgb_range=255):
    """Return the first negative of PCL-SR: LR enlarged, with aligned corners, clamped."""
    large = interpolate(lr, scale_factor=2, mode="bicubic", align_corners=True)
    return large.clamp(0, rgb_range)


def naive_haar(x):
    """Return LH, HL and HH of a (B, C, H, W) array, block by block."""
    batch, channels, height, width = x.shape
    out = np.zeros((batch, 3 * channels, height // 2, width // 2))
    for n, c, i, j in np.ndindex(batch, channels, height // 2, width // 2):
        (a, b), (d, e) = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        out[n, c, i, j] = (a + b - d - e) / 2
        out[n, channels + c, i, j] = (a - b + d - e) / 2
        out[n, 2 * channels + c, i, j] = (a - b - d + e) / 2
    return out


def cosine(a, b):
    """Return the cosine along the channels, averaged over pixels: (B,)."""
    return (normalize(a, dim=1) * normalize(b, dim=1)).sum(1).mean((1, 2))


def naive_contrastive(kind, anchor, positives, negatives, weights, temperature=1):
    """Return the contrastive loss of lists of layers, one similarity after the other."""
    near, far = (  # [layer][sample] (B,)
        [[cosine(a, x[i]) / temperature for x in side] for i, a in enumerate(anchor)]
        for side in (positives, negatives)
    )
    layers = range(len(anchor))
    if kind in ("InfoNCE", "LMCL"):
        values = []
        for i in layers:
            others = sum(s.exp() for s in far[i])
            denominators = [others + (s.exp() if kind == "InfoNCE" else 0) for s in near[i]]
            logs = [-(s.exp() / d).log() for s, d in zip(near[i], denominators, strict=True)]
            values.append(torch.stack(logs).mean())
        return sum(values) / len(values)
    near_mean, far_mean = ([torch.stack(s).mean() for s in side] for side in (near, far))
    if kind == "cosine":
        return sum(weights[i] * (far_mean[i] - near_mean[i]) for i in layers)
    if kind == "l2":
        total_near = sum(weights[i] * near_mean[i] for i in layers)
        return (1 - total_near) / (1 - sum(weights[i] * far_mean[i] for i in layers))

    def distance(side):
        means = (sum((a - s[i]).abs().mean() for s in side) for i, a in enumerate(anchor))
        return sum(w * mean / len(side) for w, mean in zip(weights, means, strict=True))

    return distance(positives) / distance(negatives)
