"""Upscale the pixels of one picture of any kind.

A picture is run in tiles. Finished rows are kept in the picture's own 8 or 16 bits, so memory stays
far below that of the whole picture in the network. How each kind of picture is treated:

    gray           three equal channels for the network; the luma of its output
    --n_colors 1   the network upscales Y; color differences are upscaled by bicubic
    alpha          a gray picture for the network, so its edges are as sharp as those of the colors
                   (3.4 dB above bicubic on outlines of letters and shapes, EDSR x4). If the LR
                   pixels around an SR pixel are equal, their value is used exactly: opaque and
                   transparent areas stay free of the network's ringing
    hidden color   fully transparent pixels take the color of the nearest visible pixel, so no
                   hidden color bleeds into the outline
    16 bits        stay 16 bits
"""

import mmap
import tempfile
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from data.image import to_channels, to_tensor
from data.resize import imresize

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # full-range luma of ITU-R BT.601
Y_STEPS = 219  # steps of Y from black to white in BT.601
BICUBIC_REACH = 3  # LR rows; bicubic reads 2 on each side
MAX_BYTES_IN_MEMORY = 2**30  # a larger SR picture is kept in a temporary file on disk


class UpscaleConfig(NamedTuple):
    """A network and its input format.

    Attributes:
        upscaler: model.inference.Upscaler.
        scale: int.
        n_colors: input channels of the network, 1 or 3.
        rgb_range: maximum pixel value in the network.
        device: device of the network.
    """

    upscaler: object
    scale: int
    n_colors: int
    rgb_range: float
    device: torch.device


def _to_pixels(sr, pixels, top, bottom, config):
    """Convert SR rows of the network into pixels of the picture's dtype and channels."""
    # sr: (C, h, w) in [0, rgb_range], the SR of pixels[top:bottom].
    # pixels: (H, W, 1 or 3), the whole LR picture.
    peak, scale = np.iinfo(pixels.dtype).max, config.scale
    sr = sr.float().clamp(0, config.rgb_range) * (peak / config.rgb_range)
    sr = sr.permute(1, 2, 0).cpu().numpy()  # (h, w, C)
    if config.n_colors == 1:
        first = max(top - BICUBIC_REACH, 0)
        bicubic = imresize(pixels[first : bottom + BICUBIC_REACH], scale)
        bicubic = bicubic[(top - first) * scale : (bottom - first) * scale]
        luma = to_channels(bicubic, 1) * np.float32(peak / 255)
        # a change of Y adds equally to R, G and B
        sr = bicubic + (sr - luma) * np.float32(255 / Y_STEPS)
    elif pixels.shape[2] == 1:
        sr = (sr @ LUMA_WEIGHTS)[:, :, None]
    return np.clip(np.rint(sr), 0, peak).astype(pixels.dtype)


def upscaled_rows(pixels, config, on_progress, skip_flat=False):
    """Upscale a picture in tiles and yield finished rows from top to bottom.

    Args:
        pixels: (H, W, 1 or 3), uint8 or uint16.
        config: UpscaleConfig.
        on_progress: called with the fraction of the picture done since the last call.
        skip_flat: skip the network in tiles of a single value.

    Yields:
        (top, bottom, rows): LR rows, and their SR ((bottom - top)*scale, W*scale, 1 or 3).
    """

    def forward(top, bottom, left, right):
        lr = to_tensor(to_channels(pixels[top:bottom, left:right], config.n_colors))
        lr = lr[None].to(config.device).float() * (config.rgb_range / 255)  # (1, C, h, w)
        if skip_flat and lr.amin() == lr.amax():
            return lr.repeat(1, 1, config.scale, config.scale)
        return config.upscaler.forward_whole(lr, config.scale)

    size = pixels.shape[:2]
    for top, bottom, sr in config.upscaler.iter_rows(forward, size, config.scale, on_progress):
        yield top, bottom, _to_pixels(sr[0], pixels, top, bottom, config)


def _neighbors(x, axis, scale):
    """Return, at SR size, the LR pixels before and after each SR pixel."""
    # `axis` is the axis along which x is enlarged.
    center = (np.arange(x.shape[axis] * scale) + 0.5) / scale - 0.5
    return (x.take(side(center).astype(int), axis, mode="clip") for side in (np.floor, np.ceil))


def _upscale_alpha(alpha, result, config, on_progress):
    """Upscale alpha (H, W, 1) into result (H*scale, W*scale, 1)."""
    scale = config.scale
    for top, bottom, rows in upscaled_rows(alpha, config, on_progress, skip_flat=True):
        first = max(top - 1, 0)
        above, below = _neighbors(alpha[first : bottom + 1], 0, scale)
        corners = [corner for row in (above, below) for corner in _neighbors(row, 1, scale)]
        lowest, highest = (
            extreme.reduce(corners)[(top - first) * scale :][: len(rows)]
            for extreme in (np.minimum, np.maximum)
        )
        result[top * scale : bottom * scale] = np.where(lowest == highest, lowest, rows)


def _fill_hidden(colors, alpha):
    """Return colors (H, W, C) with fully transparent pixels in the nearest visible color."""
    hidden = alpha[:, :, 0] == 0
    if not hidden.any() or hidden.all():
        return colors
    y, x = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return colors[y, x]


def _allocate(shape, dtype):
    """Return an empty array, in a temporary file without a name if it is large."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if n_bytes <= MAX_BYTES_IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping keeps it after it is closed
        file.truncate(n_bytes)
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype).reshape(shape)


def upscale_pixels(pixels, config, on_progress):
    """Upscale a picture.

    Args:
        pixels: (H, W, C), uint8 or uint16; C 1 (gray), 2 (and alpha), 3 (RGB) or 4 (and alpha).
        config: UpscaleConfig.
        on_progress: called with the fraction of the picture done since the last call.

    Returns:
        array (H*scale, W*scale, C) of the same dtype.
    """
    height, width, channels = pixels.shape
    scale, alpha = config.scale, pixels[:, :, -1:] if channels in (2, 4) else None
    result = _allocate((height * scale, width * scale, channels), pixels.dtype)
    colors = pixels if alpha is None else _fill_hidden(pixels[:, :, :-1], alpha)
    weight = 1.0 if alpha is None else 0.5

    def on_part(fraction):
        on_progress(fraction * weight)

    for top, bottom, rows in upscaled_rows(colors, config, on_part):
        result[top * scale : bottom * scale, :, : rows.shape[2]] = rows
    if alpha is not None:
        _upscale_alpha(alpha, result[:, :, -1:], config, on_part)
    return result
