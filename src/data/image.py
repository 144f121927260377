"""Reading and writing image files, and their way into tensors. Arrays are (H, W, C), colour order RGB."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from errors import InputError
from replacing import replacing

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

# Y of ITU-R BT.601 for R, G, B in [0, 255]: 16 + the weighted sum / 255
LUMA = (65.481, 128.553, 24.966)


def _decode(path):
    if path.suffix.lower() in (".tif", ".tiff"):
        return iio.imread(path, plugin="tifffile")
    with iio.imopen(path, "r", plugin="pillow") as file:
        mode = file.metadata(index=0, exclude_applied=False)["mode"]
        # CMYK and its like have four channels that would pass for RGBA; a palette may carry transparency
        wanted = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "1": "L", "P": "RGBA", "PA": "RGBA"}.get(mode)
        image = file.read(index=0, mode=wanted, rotate=True)
    with open(path, "rb") as file:
        header = file.read(25)
    if header.startswith(b"\x89PNG") and header[24] == 16 and image.dtype == np.uint8:
        raise InputError(f"{path}: a PNG of 16 bits and several channels would be cut to 8 bits: save it as TIFF")
    return image


def read_image(path, alpha=False):
    """Read an image file.

    Args:
        path: the file: PNG, JPEG, BMP, TIFF, WebP, PPM. The EXIF orientation is applied, palettes become RGB.
        alpha: keep the alpha channel; else colours are taken as they are stored and alpha is dropped.

    Returns:
        array (H, W, C), uint8 or uint16; C is 1 or 3, or 2 or 4 with alpha=True and an alpha channel in the file.

    Raises:
        InputError: the file cannot be decoded or is no such image.
    """
    path = Path(path)
    try:
        image = np.asarray(_decode(path))
    except InputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error for a broken file
        raise InputError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: is no grey or RGB image of 8 or 16 bits (shape {image.shape}, {image.dtype})")
    if not alpha and image.shape[2] in (2, 4):
        image = image[:, :, :-1]
    return np.ascontiguousarray(image)


def write_image(path, image):
    """Write a (H, W) or (H, W, C) array as a lossless file (PNG, or TIFF for 16-bit colour), whole or not at all."""
    path = Path(path)
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    plugin = "tifffile" if path.suffix == ".tif" else "pillow"
    with replacing(path) as partial:
        iio.imwrite(partial, image, extension=path.suffix, plugin=plugin)


def to_channels(image, n_colors):
    """Give an image (H, W, 1 or 3) the channels that the network takes.

    Returns:
        for n_colors 3: three channels, the dtype of the image; grey is repeated. For n_colors 1: Y of BT.601, float32 with
        white of the image at 255; a grey image counts as three equal channels, as it does in the metrics.
    """
    if n_colors == 3:
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    weights = np.array(LUMA if image.shape[2] == 3 else (sum(LUMA),), np.float32) / np.iinfo(image.dtype).max
    return (image.astype(np.float32) @ weights + np.float32(16))[:, :, None]


def to_tensor(image):
    """Turn (H, W, C) into a (C, H, W) tensor with white at 255: uint8 as it is, uint16 scaled to float32.

    The pixels stay in the order of (H, W, C), which is that of channels_last.
    """
    if image.dtype == np.uint16:
        image = image.astype(np.float32) * np.float32(255 / 65535)
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def to_uint8(tensor, rgb_range):
    """Turn a (C, H, W) tensor in [0, rgb_range] into a (H, W, C) uint8 array, rounded to the nearest step."""
    tensor = (tensor.float() * (255 / rgb_range)).round().clamp(0, 255)
    return tensor.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def image_size(path):
    """Read (height, width) of an image file from its header, as `read_image` will give it.

    Raises:
        InputError: the file has no readable header.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return tuple(iio.improps(path, plugin="tifffile").shape[:2])
        with iio.imopen(path, "r", plugin="pillow") as file:
            height, width = file.properties(index=0).shape[:2]
            turned = file.metadata(index=0, exclude_applied=False).get("Orientation", 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except Exception as error:  # as in read_image
        raise InputError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error
