"""Pairs of HR and LR images: match the files, load and crop them."""

import unicodedata
from pathlib import Path

import numpy as np

from data.cache import load_mmap
from data.image import image_size, read_image
from runtime.files import UserError


def stem(path):
    """Return a file's name without ending, in Unicode's composed form: macOS may decompose it."""
    return unicodedata.normalize("NFC", path.stem)


def match_lr(hr_names, lr_names, scale):
    """Return the LR name of each HR name, or None; both without ending and in `stem`'s form.

    A folder of LR images has the names of the HR images, or NAMExSCALE, or a mixture. In a mixture
    NAMExSCALE comes first: with the HR images a and ax2, an LR image ax2 belongs to a, not to ax2.
    """
    lr_names = set(lr_names)
    if set(hr_names) == lr_names:
        return list(hr_names)
    found = [name if (name := f"{hr}x{scale}") in lr_names else None for hr in hr_names]
    taken = set(found)
    for i, hr in enumerate(hr_names):
        if found[i] is None and hr in lr_names and hr not in taken:
            found[i] = hr
    return found


def paired_lr_size(hr_size, lr_size, scale, names):
    """Return the LR size (h, w) that both images of a pair cover.

    HR may be up to scale - 1 pixels larger than LR x scale, or smaller, as MATLAB rounds LR sizes
    up.
    """
    if any(abs(h - low * scale) >= scale for h, low in zip(hr_size, lr_size, strict=True)):
        (hh, hw), (lh, lw) = hr_size, lr_size
        raise UserError(
            f"sizes do not match at scale {scale}: {names[0]} is {hw}x{hh}, {names[1]} is {lw}x{lh}"
        )
    return tuple(min(low, h // scale) for h, low in zip(hr_size, lr_size, strict=True))


def load_array(image):
    """Return an image as an array (H, W, C).

    `image` is an array, a .npy file (which is mapped) or an image file.
    """
    if isinstance(image, np.ndarray):
        return image
    return load_mmap(image) if image.suffix == ".npy" else read_image(image)


def image_hw(image):
    """Return (height, width) of an argument of `load_array`; read only a file's header."""
    if isinstance(image, np.ndarray) or image.suffix == ".npy":
        return load_array(image).shape[:2]
    return image_size(image)


def load_pair(hr, lr, scale, name=None, make=None):
    """Load a pair and crop both images to their common part.

    Args:
        hr: an argument of `load_array`.
        lr: the same, or None: LR is made from HR.
        scale: int.
        name: name of the pair in messages (default: the paths).
        make: function hr -> lr; None: without LR, LR stays None.

    Returns:
        (hr, lr): arrays (h*scale, w*scale, C) and (h, w, C), uint8 or uint16.
    """
    names = (hr, lr) if name is None and isinstance(hr, Path) else (name, name)
    hr = load_array(hr)
    if lr is None:
        height, width = (side // scale * scale for side in hr.shape[:2])
        return hr[:height, :width], make and make(hr)
    lr = load_array(lr)
    height, width = paired_lr_size(hr.shape[:2], lr.shape[:2], scale, names)
    return hr[: height * scale, : width * scale], lr[:height, :width]
