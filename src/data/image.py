"""Read and write image files, and convert them to tensors.

Arrays are (H, W, C), in RGB.

Pillow decodes all formats, except those that it would cut to 8 bits: TIFF of 16 bits (tifffile, see
tiff.py) and PNG of 16-bit colors (OpenCV, an optional package).
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from data.png16 import read_by_opencv, write_png16
from data.tiff import apply_orientation, is_tiff, read_deep_tiff, read_tiff_header, write_tiff
from metric import LUMA
from runtime.files import UserError, atomic_path, report_write_errors

EXTENSIONS = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TIFF = {".tif", ".tiff"}
# Formats by content, whatever the name of the file says; others (EPS, PDF) would run other
# programs.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "GIF")
# Known modes of Pillow, and the mode that each is converted to. Any other mode is an error.
MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
}
GRAY16 = ("I;16", "I;16L", "I;16B", "I;16N")
MAX_NOTICES = 10  # lines about single files; a large folder would print thousands
_settings = {"max_pixels": 178_956_970, "notices": 0}  # Pillow's limit against decompression bombs


def set_max_pixels(count):
    """Set the number of pixels above which an image file is refused, for this process."""
    _settings["max_pixels"] = count


def _notice(text):
    """Print a line about one file to stderr, up to MAX_NOTICES of them."""
    _settings["notices"] += 1
    if _settings["notices"] <= MAX_NOTICES:
        print(f"WARNING: {text}", file=sys.stderr)
    elif _settings["notices"] == MAX_NOTICES + 1:
        print("WARNING: more such lines are left out", file=sys.stderr)


def _check_pixels(path, width, height):
    limit = _settings["max_pixels"]
    if width * height > limit:
        raise UserError(
            f"{path}: {width}x{height} = {width * height:,} pixels are more than"
            f" --max_pixels {limit:,}:"
            " raise it if there is RAM of about 20 bytes a pixel"
        )


def _open(path):
    """Open an image file by Pillow, with our own limit of pixels instead of Pillow's."""
    Image.MAX_IMAGE_PIXELS = None
    Image.init()  # knows all of FORMATS; done once
    file = Image.open(path, formats=FORMATS)
    _check_pixels(path, *file.size)
    return file


# ----------------------------------------------------------------- decoding


def _cmyk_to_srgb(path, image, profile):
    """Convert CMYK to sRGB by its ICC profile.

    Without a valid profile: red is 1 - min(1, C + K), and likewise green and blue.
    """
    if not profile:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        _notice(f"{path}: its ICC profile is damaged, so CMYK is converted without it")
        return image.convert("RGB")


def _to_known_mode(path, image, profile):
    """Convert an image of Pillow to a mode in MODES' values.

    Returns:
        (image, profile): L, LA, RGB or RGBA, and the ICC profile if it still applies to the colors.

    Raises:
        UserError: the mode is not in MODES.
    """
    mode = image.mode
    if mode not in MODES:
        raise UserError(
            f"{path}: images of Pillow's mode {mode} cannot be read:"
            " save it as gray or RGB, 8 or 16 bits"
        )
    if mode == "CMYK":
        return _cmyk_to_srgb(path, image, profile), None
    target = MODES[mode]
    if "transparency" in image.info:
        target = {"L": "LA", "RGB": "RGBA"}.get(target, target)
    profile = None if mode == "LAB" else profile
    return (image if mode == target else image.convert(target)), profile


def _raw_mode(file):
    """Return Pillow's name for the pixel layout of an opened file, such as RGB;16B."""
    args = file.tile[0][3] if file.tile else ""
    return args if isinstance(args, str) else str(args[0])


def _read_png16(path, file):
    """Read a PNG of 16 bits a channel with colors or alpha.

    Pillow would keep 8 bits.
    """
    key = file.info.get("transparency")  # the color that is transparent, in a file without alpha
    is_gray, orientation = _raw_mode(file).startswith("LA"), file.getexif().get(0x112, 1)
    file.load()  # Pillow checks that the file is complete
    image = read_by_opencv(path)
    if is_gray:
        image = image[:, :, [0, -1]]
    if isinstance(key, tuple):
        opaque = (image[:, :, :3] != np.array(key, np.uint16)).any(axis=2, keepdims=True)
        image = np.concatenate([image[:, :, :3], opaque * np.uint16(65535)], axis=2)
    return apply_orientation(image, orientation)


def _read_gray16(file):
    """Return the pixels of 16-bit gray, with alpha if a value is transparent."""
    key = file.info.get("transparency")
    image = np.asarray(ImageOps.exif_transpose(file)).astype(np.uint16)
    if not isinstance(key, int):
        return image
    return np.stack([image, (image != key) * np.uint16(65535)], axis=2)


def _decode(path):
    """Return an image file's pixels (H, W[, C]) and its ICC profile or None."""
    if is_tiff(path):
        header = read_tiff_header(path)
        _check_pixels(path, *header.size[::-1])
        if header.bits > 8:
            return read_deep_tiff(path, header, read_by_opencv), header.profile
    with _open(path) as file:
        profile = file.info.get("icc_profile")
        n_frames = getattr(file, "n_frames", 1)
        if n_frames > 1 and file.format != "MPO":  # MPO: a JPEG with previews of a phone
            _notice(f"{path}: page 1 of {n_frames} is read")
        raw_mode = _raw_mode(file)
        if file.format == "PPM" and file.mode == "RGB" and _ppm_maximum(file) > 255:
            raise UserError(
                f"{path}: a PPM of 16 bits would be cut to 8 bits: save it as PNG or TIFF"
            )
        if ";16" in raw_mode and file.mode in ("RGB", "RGBA", "LA"):
            if file.format != "PNG":
                raise UserError(f"{path}: 16 bits in this form ({raw_mode}) cannot be read")
            return _read_png16(path, file), profile
        if file.mode in GRAY16 or (file.mode == "I" and file.format in ("PNG", "PPM")):
            return _read_gray16(file), profile
        image, profile = _to_known_mode(path, ImageOps.exif_transpose(file), profile)
    return np.asarray(image), profile


def _ppm_maximum(file):
    args = file.tile[0][3] if file.tile else None
    return args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) else 255


# ------------------------------------------------------------------ reading


def read_image_with_profile(path):
    """Read an image file with its alpha channel and its ICC profile.

    Args:
        path: the file: PNG, JPEG, BMP, TIFF, WebP, PPM or GIF; the first of several frames or
            pages. The EXIF orientation is applied. MODES lists the conversion of each color mode.

    Returns:
        (pixels, profile): array (H, W, C), uint8 or uint16, C 1 (gray), 2 (and alpha), 3 (RGB) or 4
        (and alpha), colors as they are stored; the bytes of the ICC profile, or None.

    Raises:
        UserError: the file cannot be decoded or is not such an image.
    """
    path = Path(path)
    try:
        pixels, profile = _decode(path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than there is") from error
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise _unreadable(path, error) from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if (
        pixels.ndim != 3
        or pixels.shape[2] not in (1, 2, 3, 4)
        or pixels.dtype not in (np.uint8, np.uint16)
    ):
        raise UserError(
            f"{path}: is not a gray or RGB image of 8 or 16 bits ({pixels.shape}, {pixels.dtype})"
        )
    return pixels, profile


def _unreadable(path, error):
    return UserError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})")


def read_image(path, alpha=False):
    """Read the pixels of an image file; see `read_image_with_profile`.

    Args:
        path: the file.
        alpha: keep the alpha channel; else colors are taken as they are stored and alpha is
            dropped.

    Returns:
        array (H, W, C), uint8 or uint16; C is 1 or 3, or 2 or 4 with alpha=True and an alpha
        channel.
    """
    image, _ = read_image_with_profile(path)
    if not alpha and image.shape[2] in (2, 4):
        image = image[:, :, :-1]
    return np.ascontiguousarray(image)


def image_size(path):
    """Return (height, width) of an image file from its header, as `read_image` will give it.

    Raises:
        UserError: the file has no readable header, or too many pixels.
    """
    path = Path(path)
    try:
        if is_tiff(path):
            header = read_tiff_header(path)
            _check_pixels(path, *header.size[::-1])
            return header.size
        with _open(path) as file:
            is_rotated = file.getexif().get(0x112, 1) >= 5
            return file.size if is_rotated else file.size[::-1]
    except UserError:
        raise
    except Exception as error:  # as in read_image_with_profile
        raise _unreadable(path, error) from error


# ------------------------------------------------------------------ writing


def write_image(path, image, profile=None):
    """Write an image as a lossless file, atomically.

    Args:
        path: the file; TIFF if it ends in .tif or .tiff, else PNG.
        image: array (H, W) or (H, W, C), C 1 to 4, uint8 or uint16.
        profile: bytes of an ICC profile that goes with it, or None.

    Raises:
        UserError: it cannot be written, or PNG of 16-bit colors needs OpenCV.
    """
    path = Path(path)
    image = image[:, :, None] if image.ndim == 2 else image
    with report_write_errors(path), atomic_path(path) as partial, open(partial, "wb") as file:
        if path.suffix.lower() in TIFF:
            write_tiff(file, image, profile)
        elif image.dtype == np.uint16 and image.shape[2] > 1:
            write_png16(path, file, image, profile)
        else:
            image = image[:, :, 0] if image.shape[2] == 1 else image
            Image.fromarray(image).save(file, format="PNG", icc_profile=profile)


# ------------------------------------------------------------------ tensors


def to_channels(image, n_colors):
    """Return an image (H, W, 1 or 3) with the channels that the network takes.

    Returns:
        for n_colors 3: three channels, the dtype of the image; gray is repeated. For n_colors 1: Y
            of BT.601,
        float32, in which 255 is the maximum pixel value; gray counts as three equal channels, as in
        the metrics.
    """
    if n_colors == 3:
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    weights = np.array(LUMA if image.shape[2] == 3 else (sum(LUMA),), np.float32)
    weights /= np.iinfo(image.dtype).max
    return (image.astype(np.float32) @ weights + np.float32(16))[:, :, None]


def to_tensor(image):
    """Return an array (H, W, C) as a tensor (C, H, W) in [0, 255].

    uint8 stays uint8; uint16 is scaled to float32.

    The pixels stay in the order of (H, W, C), which is that of channels_last.
    """
    if image.dtype == np.uint16:
        image = image.astype(np.float32) * np.float32(255 / 65535)
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def to_uint8(tensor, rgb_range):
    """Return a tensor (C, H, W) in [0, rgb_range] as rounded uint8 (H, W, C)."""
    tensor = (tensor.float() * (255 / rgb_range)).round().clamp(0, 255)
    return tensor.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
