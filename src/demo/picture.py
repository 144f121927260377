"""Upscale the pixels of one picture of any kind.

A picture is run in tiles. Finished rows are kept in the picture's own 8 or 16 bits, so memory stays
far below that of the whole picture in the network.

    gray           three equal channels for the network; the luma of its output
    --n_colors 1   the network upscales Y; color differences are upscaled by bicubic
    alpha          a gray picture for the network, so its edges are as sharp as those of the colors
                   (3.4 dB above bicubic on outlines, EDSR x4). An SR pixel between equal LR pixels
                   has their value: opaque and transparent areas stay free of ringing
    hidden color   fully transparent pixels take the color of the nearest visible pixel, so no
                   hidden color bleeds into the outline
"""

import mmap
import os
import tempfile
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from data.image import to_channels, to_tensor
from data.resize import imresize

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # full-range luma of ITU-R BT.601
BICUBIC_REACH = 3  # LR rows; bicubic reads 2 on each side
MAX_BYTES_IN_MEMORY = 2**30  # a larger SR picture is kept in a temporary file on disk


class UpscaleConfig(NamedTuple):
    """A network and its input format."""

    upscaler: object  # model.inference.Upscaler
    scale: int
    n_colors: int  # input channels of the network, 1 or 3
    rgb_range: float  # maximum pixel value in the network
    device: torch.device


def _to_pixels(sr, pixels, top, bottom, config):
    """Convert SR (C, h, w) of pixels[top:bottom] to their dtype and channels."""
    peak, scale = np.iinfo(pixels.dtype).max, config.scale
    sr = sr.float().clamp(0, config.rgb_range) * (peak / config.rgb_range)
    sr = sr.permute(1, 2, 0).cpu().numpy()  # (h, w, C)
    if config.n_colors == 1:
        first = max(top - BICUBIC_REACH, 0)
        bicubic = imresize(pixels[first : bottom + BICUBIC_REACH], scale)
        bicubic = bicubic[(top - first) * scale : (bottom - first) * scale]
        luma = to_channels(bicubic, 1) * np.float32(peak / 255)
        # a change of Y, which has 219 steps, adds equally to R, G and B
        sr = bicubic + (sr - luma) * np.float32(255 / 219)
    elif pixels.shape[2] == 1:
        sr = (sr @ LUMA_WEIGHTS)[:, :, None]
    return np.clip(np.rint(sr), 0, peak).astype(pixels.dtype)


def upscaled_rows(pixels, config, on_progress, skip_flat=False):
    """Upscale pixels (H, W, 1 or 3) in tiles; yield finished rows from top to bottom.

    `on_progress` is called with the fraction of the picture done since the last call; `skip_flat`
    skips the network in tiles of a single value. Yields (top, bottom, rows): LR rows and their SR
    ((bottom - top)*scale, W*scale, 1 or 3).
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
    """Return, at SR size, the LR pixels before and after each SR pixel along an axis."""
    center = (np.arange(x.shape[axis] * scale) + 0.5) / scale - 0.5
    return (x.take(side(center).astype(int), axis, mode="clip") for side in (np.floor, np.ceil))


def _upscale_alpha(alpha, result, config, on_progress):
    """Upscale alpha (H, W, 1) into result (H*scale, W*scale, 1)."""
    scale = config.scale
    for top, bottom, rows in upscaled_rows(alpha, config, on_progress, skip_flat=True):
        first = max(top - 1, 0)
        above, below = _neighbors(alpha[first : bottom + 1], 0, scale)
        corners = [corner for row in (above, below) for corner in _neighbors(row, 1, scale)]
        corners = np.stack(corners)[:, (top - first) * scale :][:, : len(rows)]
        is_flat = (corners == corners[0]).all(0)
        result[top * scale : bottom * scale] = np.where(is_flat, corners[0], rows)


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
        if hasattr(os, "posix_fallocate"):  # on a full disk, the mapping would end the program
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return np.frombuffer(mmap.mmap(file.fileno(), n_bytes), dtype).reshape(shape)


def upscale_pixels(pixels, config, on_progress):
    """Upscale pixels (H, W, C), uint8 or uint16, to (H*scale, W*scale, C) of the same dtype.

    C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha). `on_progress`: see `upscaled_rows`.
    """
    height, width, channels = pixels.shape
    scale, has_alpha = config.scale, channels in (2, 4)
    result = _allocate((height * scale, width * scale, channels), pixels.dtype)
    colors = _fill_hidden(pixels[:, :, :-1], pixels[:, :, -1:]) if has_alpha else pixels

    def on_part(fraction):
        on_progress(fraction / 2 if has_alpha else fraction)

    for top, bottom, rows in upscaled_rows(colors, config, on_part):
        result[top * scale : bottom * scale, :, : rows.shape[2]] = rows
    if has_alpha:
        _upscale_alpha(pixels[:, :, -1:], result[:, :, -1:], config, on_part)
    return result
