"""PSNR and SSIM as super-resolution papers report them.

Benchmarks: luma (Y of ITU-R BT.601), a border of `scale` pixels cut. DIV2K: RGB, a border of
`scale` + 6 pixels cut, as in EDSR. SR is rounded to 8 bits first, everything is float64. SSIM agrees
with the MATLAB tables published with RCAN to 5e-7.
"""

import math

import numpy as np
from skimage.metrics import structural_similarity

# Y of ITU-R BT.601 for R, G, B in [0, 255]: 16 + the weighted sum / 255
LUMA = (65.481, 128.553, 24.966)


def crop_border(scale, benchmark):
    """Return the border in pixels that the metrics cut: `scale` on benchmarks, else `scale` + 6."""
    return scale if benchmark else scale + 6


def _prepare(sr, hr, scale, rgb_range, benchmark):
    """Return both images as float64 (H, W) or (H, W, C) in [0, 255], converted and cropped."""
    if sr.shape != hr.shape:
        raise ValueError(
            "metrics need images of the same shape, not "
            f"SR {tuple(sr.shape)} and HR {tuple(hr.shape)}"
        )
    if sr.dim() == 4 and len(sr) == 1:
        sr, hr = sr[0], hr[0]
    if sr.dim() != 3 or len(sr) not in (1, 3):
        raise ValueError(
            f"metrics take (C, H, W) or (1, C, H, W) with C 1 or 3, not {tuple(sr.shape)}"
        )
    border = crop_border(scale, benchmark)
    if min(sr.shape[1:]) <= 2 * border:
        raise ValueError(
            f"an image of {sr.shape[2]}x{sr.shape[1]} pixels has nothing left inside a border of "
            f"{border}"
        )
    sr8 = (sr.float() * (255 / rgb_range)).round().clamp(0, 255).double()
    sr8 = sr8.permute(1, 2, 0).cpu().numpy()
    hr8 = (hr.double() * (255 / rgb_range)).permute(1, 2, 0).cpu().numpy()
    if benchmark and len(sr) == 3:
        sr8, hr8 = (image @ (np.array(LUMA) / 255) + 16 for image in (sr8, hr8))
    elif len(sr) == 1:
        sr8, hr8 = sr8[:, :, 0], hr8[:, :, 0]
    return (image[border:-border, border:-border] for image in (sr8, hr8))


def calc_psnr(sr, hr, scale, rgb_range, benchmark=True):
    """Return the peak signal-to-noise ratio in dB.

    Args:
        sr: tensor (C, H, W) or (1, C, H, W) in [0, rgb_range], RGB or luma; it is rounded to 8
            bits and clamped here.
        hr: tensor of the same shape, in [0, rgb_range].
        scale: scale of the super-resolution, int; sets the border that is cut.
        rgb_range: maximum pixel value.
        benchmark: luma and border `scale`; else all channels and border `scale` + 6.

    Returns:
        float; inf for equal images.

    Raises:
        ValueError: the shapes differ or leave nothing inside the border.
    """
    sr, hr = _prepare(sr, hr, scale, rgb_range, benchmark)
    mse = float(np.mean((sr - hr) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def calc_ssim(sr, hr, scale, rgb_range, benchmark=True):
    """Return the structural similarity (Wang et al., IEEE TIP 2004).

    11x11 Gaussian window of sigma 1.5, K 0.01 and 0.03, valid region.

    Arguments and errors are those of `calc_psnr`; nan if a side has less than 11 pixels.
    """
    sr, hr = _prepare(sr, hr, scale, rgb_range, benchmark)
    if min(sr.shape[:2]) < 11:
        return math.nan
    axis = 2 if sr.ndim == 3 else None
    return float(
        structural_similarity(
            sr,
            hr,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=axis,
        )
    )
