"""Pairs of HR and LR images: load, crop and check them."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch

from data.checks import check_alignment, spread_indices, thumbnail
from data.image import image_size, read_image
from runtime.files import UserError, is_utf8

MAX_DECODED = 16  # images that are decoded only for a check
MAX_HEADERS = 2000  # image files whose size is read before training, if they are not cached
NO_SIZE = -1


def pair_sizes(hr_size, lr_size, scale, names):
    """Return the sizes (H, W, h, w) of HR and LR after their check; LR that is None is made.

    HR may be up to scale - 1 pixels larger than LR x scale, or smaller, as MATLAB rounds LR sizes
    up. An error has the `names` of both.
    """
    lr_size = lr_size or tuple(side // scale for side in hr_size)
    if any(abs(h - low * scale) >= scale for h, low in zip(hr_size, lr_size, strict=True)):
        (hh, hw), (lh, lw) = hr_size, lr_size
        raise UserError(
            f"sizes do not match at scale {scale}: {names[0]} is {hw}x{hh}, {names[1]} is {lw}x{lh}"
        )
    return (*hr_size, *lr_size)


def cache_error(path, error, verb):
    """Return the UserError for a cache that cannot be read or written."""
    return UserError(f"{path}: the cache cannot be {verb} ({error}): use another --dir_cache")


@functools.lru_cache(maxsize=8192)  # a process may hold 65,530 mappings on Linux
def load_mmap(path):
    """Map a file of the cache into memory, as a read-only array.

    By torch rather than numpy, whose maps keep a file open each: 800 images would use up the open
    files of a process.
    """
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            size = start + math.prod(shape) * dtype.itemsize
            # torch takes UTF-8 alone; Linux, where names are bytes, has another name for open files
            name = str(path) if is_utf8(path) else f"/dev/fd/{file.fileno()}"
            raw = torch.from_file(name, shared=False, size=size, dtype=torch.uint8)
    except (OSError, ValueError, RuntimeError) as error:
        raise cache_error(path, error, "read") from error
    return raw.numpy()[start:].view(dtype).reshape(shape)


def load_array(image):
    """Return (H, W, C) of an array, of a .npy file, which is mapped, or of an image file."""
    if isinstance(image, np.ndarray):
        return image
    return load_mmap(image) if image.suffix == ".npy" else read_image(image)


def load_pair(hr, lr, scale, names, make):
    """Return arrays (h*scale, w*scale, C) and (h, w, C): the common part of a pair.

    `hr` and `lr` are arguments of `load_array`. If `lr` is None, it is make(hr), or stays None
    without `make`.
    """
    hr = load_array(hr)
    lr = load_array(lr) if lr is not None else make and make(hr)
    hh, hw, lh, lw = pair_sizes(hr.shape[:2], lr is not None and lr.shape[:2], scale, names)
    height, width = min(lh, hh // scale), min(lw, hw // scale)
    return hr[: height * scale, : width * scale], lr if lr is None else lr[:height, :width]


class PairSummary(NamedTuple):
    """Sizes, thumbnails and problems of the pairs of a training set at one scale."""

    sizes: np.ndarray  # (N, 4): height and width of HR and LR; NO_SIZE: checked when it is drawn
    thumbnails: np.ndarray | None  # (N, 16, 16) in [0, 255]; None if the images are not cached
    problems: list  # sentences


def check_pair(hr, lr, scale, names, align=True):
    """Return (sizes, thumbnail, problem or None) of arrays HR and LR, whose names are given.

    LR may be None. `align`: check whether it shows the same as HR.
    """
    sizes = pair_sizes(hr.shape[:2], lr is not None and lr.shape[:2], scale, names)
    problem = check_alignment(hr, lr, scale) if align and lr is not None else None
    text = problem and f"{names[0]}: its LR image of scale {scale} {problem}"
    return sizes, thumbnail(hr), text


def summarize_rows(rows):
    """Return the PairSummary of results of `check_pair`."""
    sizes, thumbnails, problems = zip(*rows, strict=True)
    return PairSummary(np.array(sizes), np.stack(thumbnails), [line for line in problems if line])


def summarize_sample(pairs, scale):
    """Return the PairSummary of a sample of image files (HR, LR or None) without a cache."""
    sizes, problems = np.full((len(pairs), 4), NO_SIZE), []
    for i in spread_indices(len(pairs), MAX_HEADERS):
        hr, lr = pairs[i]
        sizes[i] = pair_sizes(image_size(hr), lr and image_size(lr), scale, pairs[i])
    for i in spread_indices(len(pairs), MAX_DECODED):
        hr, lr = pairs[i]
        if lr:
            problems.append(check_pair(load_array(hr), load_array(lr), scale, pairs[i])[2])
    return PairSummary(sizes, None, [line for line in problems if line])
