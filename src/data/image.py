"""Reading and writing image files, and their way into tensors. Arrays are (H, W, C), colour order RGB."""

import io
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from data.image16 import is_cut, read_16bit, read_wide_tiff, tiff_header, write_wide_png
from metric import LUMA
from runtime.errors import UserError
from runtime.files import atomic_path, report_write_errors

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TIFF = {".tif", ".tiff"}


def _to_srgb(image, profile):
    """Turn a CMYK image of Pillow's into sRGB: by its ICC profile if it has one, else by the plain rule 1 - min(1, C + K)."""
    if not profile:
        return image.convert("RGB")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(
        image, source, target, renderingIntent=intent, outputMode="RGB", flags=flags
    )


def _as_grey_or_colour(image, profile):
    """Turn any mode of Pillow's into L, LA, RGB, RGBA or 16-bit grey; give it with the profile that still holds."""
    if image.mode == "CMYK":
        return _to_srgb(image, profile), None
    see_through = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    grey = image.mode in ("1", "L", "La")
    if see_through:
        return image.convert("LA" if grey else "RGBA"), profile
    wanted = {"1": "L", "P": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(image.mode)
    return (image.convert(wanted) if wanted else image), profile


def _decode(path):
    """Give the pixels of an image file, (H, W[, C]), and its ICC profile or None."""
    if path.suffix.lower() in TIFF:
        wide = read_wide_tiff(path)
        if wide is not None:
            return wide
    with Image.open(path) as file:
        profile = file.info.get("icc_profile")
        key = file.info.get(
            "transparency"
        )  # the colour that is transparent, in a file without alpha
        if is_cut(file):
            image = read_16bit(path)
            if isinstance(key, tuple):
                opaque = (image != np.array(key, np.uint16)).any(axis=2, keepdims=True)
                image = np.concatenate([image, opaque * np.uint16(65535)], axis=2)
            return image, profile
        layout = file.tile[0][3] if file.tile else None
        if (
            file.format == "PPM"
            and file.mode == "RGB"
            and isinstance(layout, tuple)
            and layout[-1] > 255
        ):
            raise UserError(
                f"{path}: a PPM of 16 bits would be cut to 8 bits: save it as PNG or TIFF"
            )
        whole_numbers = file.mode == "I" and file.format in (
            "PNG",
            "PPM",
        )  # 16 bits in Pillow's 32-bit mode
        image, profile = _as_grey_or_colour(ImageOps.exif_transpose(file), profile)
    pixels = np.asarray(image)
    return (pixels.astype(np.uint16) if whole_numbers else pixels), profile


def read_image_with_profile(path):
    """Read an image file with all that is to be seen of it.

    Args:
        path: the file: PNG, JPEG, BMP, TIFF, WebP, PPM; the first of several frames or pages. The EXIF orientation is
            applied, palettes become RGB, 1 bit becomes 8, CMYK becomes sRGB (by its ICC profile, if it has one).

    Returns:
        (pixels, profile): array (H, W, C), uint8 or uint16, C 1 (grey), 2 (and alpha), 3 (RGB) or 4 (and alpha), colours
        as they are stored; the bytes of the ICC profile that says what they mean, or None.

    Raises:
        UserError: the file cannot be decoded or is no such image.
    """
    path = Path(path)
    try:
        pixels, profile = _decode(path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than there is") from error
    except (
        Exception
    ) as error:  # decoders raise anything from OSError to struct.error for a broken file
        raise UserError(
            f"{path}: cannot be read as an image ({type(error).__name__}: {error})"
        ) from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if (
        pixels.ndim != 3
        or pixels.shape[2] not in (1, 2, 3, 4)
        or pixels.dtype not in (np.uint8, np.uint16)
    ):
        raise UserError(
            f"{path}: is no grey or RGB image of 8 or 16 bits (shape {pixels.shape}, {pixels.dtype})"
        )
    return pixels, profile


def read_image(path, alpha=False):
    """Read the pixels of an image file; files and errors are those of `read_image_with_profile`.

    Args:
        path: the file.
        alpha: keep the alpha channel; else colours are taken as they are stored and alpha is dropped.

    Returns:
        array (H, W, C), uint8 or uint16; C is 1 or 3, or 2 or 4 with alpha=True and transparency in the file.
    """
    image, _ = read_image_with_profile(path)
    if not alpha and image.shape[2] in (2, 4):
        image = image[:, :, :-1]
    return np.ascontiguousarray(image)


def write_image(path, image, profile=None):
    """Write an image as a lossless file, whole or not at all.

    Args:
        path: the file; its ending says whether it is TIFF (.tif, .tiff) or PNG.
        image: array (H, W) or (H, W, C), C 1 to 4, uint8 or uint16.
        profile: bytes of an ICC profile that goes with it, or None.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    image = image[:, :, None] if image.ndim == 2 else image
    colours = {
        "photometric": "rgb" if image.shape[2] >= 3 else "minisblack",
        "planarconfig": "contig",
    }
    with report_write_errors(path), atomic_path(path) as partial, open(partial, "wb") as file:
        if path.suffix.lower() in TIFF:
            extra = ["unassalpha"] if image.shape[2] in (2, 4) else None
            image = image[:, :, 0] if image.shape[2] == 1 else image
            tifffile.imwrite(
                file, image, extrasamples=extra, iccprofile=profile, metadata=None, **colours
            )
        elif image.dtype == np.uint16:
            write_wide_png(file, image, profile)
        else:
            image = image[:, :, 0] if image.shape[2] == 1 else image
            Image.fromarray(image).save(file, format="PNG", icc_profile=profile)


def to_channels(image, n_colors):
    """Give an image (H, W, 1 or 3) the channels that the network takes.

    Returns:
        for n_colors 3: three channels, the dtype of the image; grey is repeated. For n_colors 1: Y of BT.601, float32 with
        white of the image at 255; a grey image counts as three equal channels, as it does in the metrics.
    """
    if n_colors == 3:
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    weights = (
        np.array(LUMA if image.shape[2] == 3 else (sum(LUMA),), np.float32)
        / np.iinfo(image.dtype).max
    )
    return (image.astype(np.float32) @ weights + np.float32(16))[:, :, None]


def to_tensor(image):
    """Turn (H, W, C) into a (C, H, W) tensor with white at 255: uint8 as it is, uint16 scaled to float32.

    The pixels stay in the order of (H, W, C), which is that of channels_last.
    """
    if image.dtype == np.uint16:
        image = image.astype(np.float32) * np.float32(255 / 65535)
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def to_uint8(tensor, rgb_range):
    """Turn a (C, H, W) tensor in [0, rgb_range] into a (H, W, C) uint8 array, rounded to the nearest step."""
    tensor = (tensor.float() * (255 / rgb_range)).round().clamp(0, 255)
    return tensor.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def image_size(path):
    """Read (height, width) of an image file from its header, as `read_image` will give it.

    Raises:
        UserError: the file has no readable header.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as file:
                return tiff_header(file).size
        with Image.open(path) as file:
            turned = file.getexif().get(0x112, 1) >= 5
            return file.size if turned else file.size[::-1]
    except Exception as error:  # as in read_image_with_profile
        raise UserError(
            f"{path}: cannot be read as an image ({type(error).__name__}: {error})"
        ) from error
