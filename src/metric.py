"""PSNR and SSIM as super-resolution papers report them, in float64 on the device of the images.

SSIM agrees with scikit-image's to 1e-12, and with the MATLAB tables published with RCAN to 5e-7.
"""

import functools
import math

import torch
from torch.nn.functional import pad

# Y of ITU-R BT.601 for R, G, B in [0, 255]: 16 + the weighted sum / 255
LUMA = (65.481, 128.553, 24.966)

TAPS, SIGMA = 11, 1.5  # of the Gaussian window of SSIM
TILE = 16  # rows and columns that one product with the band matrix filters


def crop_border(scale, benchmark):
    """Return the crop border in pixels: `scale` on benchmarks, else `scale` + 6."""
    return scale if benchmark else scale + 6


def float64_device(x):
    """Return the device on which a tensor is used in float64: a GPU of a Mac (mps) has none."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def _prepare(sr, hr, scale, rgb_range, benchmark):
    """Return both images as float64 (C, H, W) in [0, 255], converted and cropped."""
    if sr.shape != hr.shape:
        shapes = f"SR {tuple(sr.shape)} and HR {tuple(hr.shape)}"
        raise ValueError(f"metrics need images of the same shape, not {shapes}")
    if sr.dim() == 4 and len(sr) == 1:
        sr, hr = sr[0], hr[0]
    if sr.dim() != 3 or len(sr) not in (1, 3):
        shape = tuple(sr.shape)
        raise ValueError(f"metrics take (C, H, W) or (1, C, H, W) with C 1 or 3, not {shape}")
    border = crop_border(scale, benchmark)
    if min(sr.shape[1:]) <= 2 * border:
        size = f"{sr.shape[2]}x{sr.shape[1]}"
        raise ValueError(f"an image of {size} pixels has nothing left inside a border of {border}")
    device = float64_device(sr)
    sr, hr = (x[:, border:-border, border:-border].to(device) for x in (sr, hr))
    sr = (sr.float() * (255 / rgb_range)).round().clamp(0, 255).double()
    hr = hr.double() * (255 / rgb_range)
    return (_luma(sr), _luma(hr)) if benchmark and len(sr) == 3 else (sr, hr)


def _luma(image):
    """Return the luma (1, H, W) of RGB (3, H, W), both in [0, 255]."""
    red, green, blue = (weight / 255 for weight in LUMA)
    return (image[:1] * red).add_(image[1:2], alpha=green).add_(image[2:], alpha=blue).add_(16)


def calc_psnr(sr, hr, scale, rgb_range, benchmark=True):
    """Return the peak signal-to-noise ratio in dB, a float; inf for equal images.

    `sr` and `hr` are tensors (C, H, W) or (1, C, H, W) in [0, rgb_range], C 1 or 3, on one device.
    SR is rounded to 8 bits and clamped. Benchmarks: luma (Y of ITU-R BT.601) without a border of
    `scale` pixels, as the MATLAB code published with RCAN. Otherwise: all channels without a border
    of `scale` + 6, as EDSR-PyTorch on DIV2K. ValueError: the shapes differ, or nothing is left.
    """
    sr, hr = _prepare(sr, hr, scale, rgb_range, benchmark)
    mse = sr.sub_(hr).square_().mean().item()
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


@functools.cache
def _band(device):
    """Return the band matrix (TILE, TILE + TAPS - 1) that applies the window to a column."""
    x = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    window = torch.exp(-0.5 * (x / SIGMA) ** 2)
    band = torch.zeros(TILE, TILE + TAPS - 1, dtype=torch.float64)
    for i in range(TILE):
        band[i, i : i + TAPS] = window / window.sum()
    return band.to(device)


def _ssim_map(x, y):
    """Return the SSIM map (C, H, W) of float64 images (C, H + TAPS - 1, W + TAPS - 1)."""
    # H and W are multiples of TILE. The window is separable: two products with a band matrix, along
    # columns and along rows, are faster than convolutions in float64
    band, size = _band(x.device), TILE + TAPS - 1
    maps = torch.stack([x, y, x.square().addcmul_(y, y), x * y])
    maps = band @ maps.unfold(2, size, TILE).transpose(3, 4)  # (4, C, H/TILE, TILE, W + TAPS - 1)
    maps = maps.unfold(4, size, TILE) @ band.T  # (4, C, H/TILE, TILE, W/TILE, TILE)
    mean_x, mean_y, squares, product = maps.flatten(4).flatten(2, 3).unbind()
    means, mean_squares = mean_x * mean_y, mean_x.square().addcmul_(mean_y, mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = product.sub_(means).mul_(2).add_(c2).mul_(means.mul_(2).add_(c1))
    variances = squares.sub_(mean_squares).add_(c2)
    return similarity.div_(variances.mul_(mean_squares.add_(c1)))


def calc_ssim(sr, hr, scale, rgb_range, benchmark=True):
    """Return the structural similarity, a float: the mean over the valid region and the channels.

    Gaussian window of 11x11 pixels, sigma 1.5; K 0.01 and 0.03; population covariance (Wang et al.,
    IEEE TIP 2004, and ssim_index of its authors). It is nan if a side has less than 11 pixels
    inside the border. Arguments: see `calc_psnr`.
    """
    sr, hr = _prepare(sr, hr, scale, rgb_range, benchmark)
    height, width = (side - TAPS + 1 for side in sr.shape[1:])
    if min(height, width) < 1:
        return math.nan
    right, bottom = -width % TILE, -height % TILE
    sr, hr = (pad(x, (0, right, 0, bottom)) for x in (sr, hr))
    total = 0.0
    rows = TILE if sr.device.type == "cpu" else 32 * TILE  # a strip fits the CPU's cache
    for top in range(0, height, rows):
        strips = (x[:, top : top + rows + TAPS - 1] for x in (sr, hr))
        total = total + _ssim_map(*strips)[:, : height - top, :width].sum()
    return total.item() / (len(sr) * height * width)
