"""Positives and negatives of PCL-SR, made from HR on the device of the batch.

Wu, Jiang, Liu, Practical Contrastive Learning for Single Image Super-Resolution (PCL-SR), IEEE TNNLS 2023,
arXiv 2111.13924, section III: sharpened HR as informative positives, blurred HR as hard negatives.
Random draws come from torch's generator on the CPU, whose state is in the checkpoint.
"""

import imageio.v3 as iio
import numpy as np
import torch
from torch.nn.functional import conv2d, interpolate, pad

from data.image import to_uint8
from runtime.distributed import draw_for_rank
from runtime.errors import UserError

BLUR_SIZES = (3, 5, 7, 9, 11)
BLUR_SIGMAS = (0.1, 2.0)
# the full degradation of --random_neg without --only_blur
NOISE_SIGMAS = (1.0, 25.0)  # in 8-bit steps
JPEG_QUALITIES = (30, 95)


def quantize(x, rgb_range):
    """Round to the steps of an 8-bit image and clamp to [0, rgb_range]."""
    return (x * (255 / rgb_range)).round().clamp(0, 255) * (rgb_range / 255)


def _gaussian(size, sigma, like):
    x = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


def gaussian_blur(x, kernel_size, sigma, rgb_range):
    """Blur with an axis-aligned Gaussian, borders reflected.

    Args:
        x: (B, C, H, W) in [0, rgb_range].
        kernel_size: pair (y, x) of odd sizes in pixels.
        sigma: pair (y, x) of standard deviations in pixels.
        rgb_range: value of white.

    Returns:
        (B, C, H, W) in [0, rgb_range], not rounded.
    """
    channels = x.shape[1]
    (size_y, size_x), (sigma_y, sigma_x) = map(int, kernel_size), map(float, sigma)
    x = pad(x, (size_x // 2, size_x // 2, size_y // 2, size_y // 2), mode="reflect")
    column, row = _gaussian(size_y, sigma_y, x), _gaussian(size_x, sigma_x, x)
    x = conv2d(x, column.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    x = conv2d(x, row.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return x.clamp(0, rgb_range)


def sharpen(x, factor, rgb_range):
    """Move each image away from its smoothed version d: d + factor * (x - d), clamped.

    d is x under the 3x3 kernel [[1,1,1],[1,5,1],[1,1,1]] / 13 in the interior; border pixels are kept.

    Args:
        x: (B, C, H, W) in [0, rgb_range].
        factor: (B,) tensor; above 1 sharpens.
        rgb_range: value of white.

    Returns:
        (B, C, H, W) in [0, rgb_range], not rounded.
    """
    channels = x.shape[1]
    kernel = x.new_ones(3, 3)
    kernel[1, 1] = 5
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = conv2d(x, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    factor = torch.as_tensor(factor).to(x).view(-1, 1, 1, 1)
    return (smooth + factor * (x - smooth)).clamp(0, rgb_range)


def upsample(x, size):
    """Bicubic upsampling of LR to HR size (corners aligned), as PCL-SR makes its first negative; unclamped."""
    return interpolate(x, size=size, mode="bicubic", align_corners=True)


def _uniform(low, high, count=1):
    return low + (high - low) * torch.rand(count)


def _for_images(low, high, count):
    """Draw a number in [low, high) for each of `count` images; see `draw_for_rank`."""
    return draw_for_rank(count, lambda total: _uniform(low, high, total))


def _noise(x):
    """Draw normal noise like x (B, C, H, W), each image's from a generator of its own; see `draw_for_rank`."""
    seeds = draw_for_rank(len(x), lambda total: torch.randint(2**62, (total,))).tolist()
    return torch.stack(
        [torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    ).to(x)


def _draw_blur():
    sizes = [BLUR_SIZES[i] for i in torch.randint(len(BLUR_SIZES), (2,)).tolist()]
    return sizes, _uniform(*BLUR_SIGMAS, 2).tolist()


def _jpeg(x, rgb_range):
    """Store each image (C, H, W) of a batch as JPEG of a random quality and read it back."""
    done = []
    for image, quality in zip(x, _for_images(*JPEG_QUALITIES, len(x)).int().tolist(), strict=True):
        pixels = to_uint8(image, rgb_range)
        grey = pixels.shape[2] == 1
        stored = iio.imwrite(
            "<bytes>", pixels[:, :, 0] if grey else pixels, extension=".jpg", quality=quality
        )
        back = np.asarray(iio.imread(stored, extension=".jpg")).reshape(pixels.shape)
        done.append(torch.from_numpy(back).permute(2, 0, 1))
    return torch.stack(done).to(x) * (rgb_range / 255)


def degrade(hr, scale, rgb_range):
    """Blur, shrink, add noise and JPEG artefacts: an LR image (B, C, H/scale, W/scale) of a random degradation."""
    x = gaussian_blur(hr, *_draw_blur(), rgb_range)
    x = interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(0, rgb_range)
    sigma = _uniform(*NOISE_SIGMAS).item() * rgb_range / 255
    x = (x + sigma * _noise(x)).clamp(0, rgb_range)
    return _jpeg(x, rgb_range)


def _pick(items, text):
    return items if text is None else [items[int(i)] for i in text.split(",")]


class SampleMaker:
    """Makes the positives and negatives of a batch as the flags say."""

    def __init__(self, args, net=None):
        """Check that the flags leave at least one sample of each kind.

        Raises:
            UserError: no positives, no negatives, or --pos_id or --neg_id outside of the samples.
        """
        self.args, self.net = args, net
        many = args.mcl_neg if args.use_aug else 0
        positives = 1 + many * args.sharp_hr + args.use_noise_pos - args.only_aug
        negatives = 1 + many * args.random_neg - args.only_aug
        for kind, count, chosen in (
            ("positives", positives, args.pos_id),
            ("negatives", negatives, args.neg_id),
        ):
            if count < 1:
                raise UserError(
                    f"--only_aug with --mcl_neg {args.mcl_neg}: the contrastive loss has no {kind}"
                )
            if chosen is not None and max(int(i) for i in chosen.split(",")) >= count:
                flag = "--pos_id" if kind == "positives" else "--neg_id"
                raise UserError(f"{flag} {chosen}: there are {count} {kind}, numbered from 0")

    @torch.no_grad()
    def __call__(self, hr, lr):
        """Make the samples of hr (B, C, H, W) and lr (B, C, h, w), all in [0, rgb_range].

        Returns:
            (positives, negatives): lists of (B, C, H, W), rounded to 8-bit steps. The first positive is HR, the first
            negative is LR in its own size, unless --only_aug drops them.
        """
        args, white = self.args, self.args.rgb_range
        positives, negatives = [hr], [lr]
        if args.use_noise_pos:
            positives.append(
                quantize(hr + _noise(hr) * (args.pos_noise_value * white / 255), white)
            )
        for _ in range(args.mcl_neg if args.use_aug else 0):
            if args.sharp_hr:
                factor = _for_images(args.sharp_value, args.sharp_value + args.sharp_range, len(hr))
                positives.append(quantize(sharpen(hr, factor, white), white))
            if args.random_neg:
                negatives.append(quantize(self._negative(hr, lr), white))
        if args.only_aug:
            positives, negatives = positives[1:], negatives[1:]
        return _pick(positives, args.pos_id), _pick(negatives, args.neg_id)

    def _negative(self, hr, lr):
        white = self.args.rgb_range
        if self.args.only_blur:
            return gaussian_blur(hr, *_draw_blur(), white)
        small = degrade(hr, hr.shape[-1] // lr.shape[-1], white)
        if self.args.neg_sr and self.net is not None:
            return self.net(small)
        return upsample(small, hr.shape[-2:])
