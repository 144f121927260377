"""Read and write image files, and convert them to tensors. Arrays are (H, W, C), in RGB.

Pillow decodes all formats, except TIFF of more than 8 bits (formats.py). Of other colors of 16
bits, which it cuts to 8, it is asked for both halves.
"""

import contextlib
import io
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from data.formats import apply_orientation, read_deep_tiff, read_tiff_header, write_png, write_tiff
from metric import LUMA
from runtime.files import UserError, atomic_path, report_write_errors

EXTENSIONS = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TIFF = {".tif", ".tiff"}
# by content, whatever the name of the file says; other formats (EPS, PDF) would run other programs
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "GIF")
# modes of Pillow, and the mode that each is converted to; any other mode is an error
MODES = dict.fromkeys(("1", "L"), "L") | dict.fromkeys(("LA", "La"), "LA")
MODES |= dict.fromkeys(("P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"), "RGB")
MODES |= dict.fromkeys(("PA", "RGBA", "RGBa"), "RGBA")
GRAY16 = ("I;16", "I;16L", "I;16B", "I;16N")
LOW_MAXIMUM = 2**14 - 1  # of 16 bits: files of 10, 12 or 14 bits that were not scaled
MAX_NOTICES = 10  # lines about single files; a large folder would print thousands
_settings = {"max_pixels": 178_956_970, "notices": 0}  # Pillow's limit against decompression bombs
_low_folders = set()  # folders whose low maximum was reported

PNG_EXIF = re.compile(rb"eXIf|Raw profile type|XML:com.adobe.xmp")  # Pillow decodes all to know
ORIENTATION, EXIF_IFD, GPS_IFD = 0x112, 0x8769, 0x8825
DESCRIPTIVE_TAGS = {0x10E, 0x10F, 0x110, 0x11A, 0x11B, 0x128, 0x131, 0x132, 0x13B, 0x8298}
ICC_TAG = 0x8773
DROPPED_TAGS = (0xA002, 0xA003, 0xA005, 0x927C)  # width, height; offsets do not survive a copy


def set_max_pixels(count):
    """Set the number of pixels above which an image file is refused, for this process."""
    _settings["max_pixels"] = count


def _notice(text):
    """Print a line about one file to stderr, MAX_NOTICES times."""
    _settings["notices"] += 1
    if _settings["notices"] <= MAX_NOTICES:
        print(f"WARNING: {text}", file=sys.stderr)
    elif _settings["notices"] == MAX_NOTICES + 1:
        print("WARNING: more such lines are left out", file=sys.stderr)


def _check_pixels(path, height, width):
    limit = _settings["max_pixels"]
    if width * height > limit:
        raise UserError(
            f"{path}: {width}x{height} = {width * height:,} pixels are more than"
            f" --max_pixels {limit:,}: raise it if there is RAM of about 20 bytes a pixel"
        )


def _open(path):
    """Open an image file by Pillow, with our own limit of pixels instead of Pillow's."""
    Image.MAX_IMAGE_PIXELS = None
    Image.init()  # knows all of FORMATS; done once
    file = Image.open(path, formats=FORMATS)
    _check_pixels(path, *file.size[::-1])
    return file


@contextlib.contextmanager
def _report_unreadable(path):
    """Turn all that decoders raise, from OSError to struct.error, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than there is") from error
    except Exception as error:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read(24).startswith(b"version https://git-lfs"):
                text = f"{path}: is a pointer of Git LFS, not an image: run git lfs pull"
                raise UserError(text) from error
        text = f"{path}: cannot be read as an image ({type(error).__name__}: {error})"
        raise UserError(text) from error


def _cmyk_to_srgb(path, image, profile):
    """Convert CMYK to sRGB by its ICC profile, or by red = 1 - min(1, C + K) and so on."""
    if profile:
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
    """Return an image in a mode of MODES' values, and the ICC profile if it still applies."""
    mode = image.mode
    if mode not in MODES:
        raise UserError(f"{path}: Pillow's mode {mode}: save it as gray or RGB of 8 or 16 bits")
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


def _other_half(tile):
    """Return a tile of Pillow with the other byte order: the unpacker keeps the low bytes."""
    name, *more = [tile.args] if isinstance(tile.args, str) else tile.args
    is_big = name.endswith("B") or (name.endswith("N") and sys.byteorder == "big")
    return tile._replace(args=(name[:-1] + ("L" if is_big else "B"), *more))


def _read_deep(path):
    """Read 16 bits a channel. Of RGB and RGBA, Pillow keeps the high bytes, then the low bytes."""
    with _open(path) as high, _open(path) as low:
        if high.mode in GRAY16:
            return np.asarray(high).astype(np.uint16)
        if high.mode not in ("RGB", "RGBA") or ";16" not in _raw_mode(high):
            raise UserError(f"{path}: its 16 bits cannot be read: save it without compression")
        low.tile = [_other_half(tile) for tile in low.tile]
        high.load(), low.load()
        return np.asarray(high) * np.uint16(256) + np.asarray(low)


def _read_gray_alpha16(path):
    """Read a PNG of 16-bit gray with alpha: its 4 bytes a pixel are read as RGBA of 8 bits."""
    data = bytearray(path.read_bytes())
    data[24:26] = 8, 6  # bits and color type
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
        return np.asarray(file).view(">u2").astype(np.uint16)


def _read_16_bits(path, file):
    """Read 16 bits a channel of an opened file; one transparent color becomes alpha."""
    if file.mode not in ("RGB", "RGBA", "LA"):
        image = np.asarray(file).astype(np.uint16)[:, :, None]
    elif file.format != "PNG":
        raise UserError(f"{path}: 16 bits in this form ({_raw_mode(file)}) cannot be read")
    else:
        is_gray = _raw_mode(file).startswith("LA")
        image = _read_gray_alpha16(path) if is_gray else _read_deep(path)
    key = file.info.get("transparency")
    if isinstance(key, (int, tuple)):
        opaque = (image != np.array(key, np.uint16)).any(axis=2, keepdims=True)
        image = np.concatenate([image, opaque * np.uint16(65535)], axis=2)
    return apply_orientation(image, file.getexif().get(ORIENTATION, 1))


def _decode(path):
    """Return an image file's pixels (H, W[, C]) and its ICC profile or None."""
    header = read_tiff_header(path)
    if header:
        _check_pixels(path, *header.size)
        if header.bits > 8:
            if header.n_pages > 1:
                _notice(f"{path}: page 1 of {header.n_pages} is read")
            return read_deep_tiff(path, header, _read_deep), header.profile
    with _open(path) as file:
        profile = file.info.get("icc_profile")
        n_frames = getattr(file, "n_frames", 1)
        if n_frames > 1 and file.format != "MPO":  # MPO: a JPEG with previews of a phone
            _notice(f"{path}: page 1 of {n_frames} is read")
        is_ppm = file.format == "PPM" and file.mode == "RGB" and file.tile[0][0] != "raw"
        if is_ppm and file.tile[0][3][-1] > 255:  # the maximum
            raise UserError(f"{path}: a PPM of 16 bits cannot be read: save it as PNG or TIFF")
        is_deep_gray = file.mode in GRAY16 or (file.mode == "I" and file.format in ("PNG", "PPM"))
        if is_deep_gray or (";16" in _raw_mode(file) and file.mode in ("RGB", "RGBA", "LA")):
            return _read_16_bits(path, file), profile
        image, profile = _to_known_mode(path, ImageOps.exif_transpose(file), profile)
    return np.asarray(image), profile


def _kept_exif(file):
    """Return the EXIF of an opened file without orientation, sizes, thumbnail and maker note."""
    exif, kept = file.getexif(), Image.Exif()
    for tag, value in exif.items():
        if tag in DESCRIPTIVE_TAGS or (EXIF_IFD <= tag < 0xC000 and tag != ICC_TAG):
            kept[tag] = dict(exif.get_ifd(tag)) if tag in (EXIF_IFD, GPS_IFD) else value
    for tag in DROPPED_TAGS:
        kept.get(EXIF_IFD, {}).pop(tag, None)
    for tag, value in kept.items():
        if isinstance(value, str) and not value.isascii():  # Pillow would write question marks
            kept[tag] = value.encode("latin-1", "replace")
    return kept.tobytes() if len(kept) else None


def _check_maximum(path, pixels):
    """Print a line if the values of a 16-bit image seem to be those of fewer bits."""
    highest = int(pixels.max(initial=0))
    if 0 < highest <= LOW_MAXIMUM and path.parent not in _low_folders:
        _low_folders.add(path.parent)
        bits = max(highest.bit_length(), 8)
        _notice(
            f"{path}: largest value {highest} of 65535: if its files hold {bits} bits, scale them"
            f" to 16; else PSNR is {20 * math.log10(65535 / highest):.0f} dB too high"
        )


def _read(path):
    """Return (pixels, ICC profile or None) of an image file; see `read_image_with_metadata`."""
    with _report_unreadable(path):
        pixels, profile = _decode(path)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    is_image = pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4)
    if not is_image or pixels.dtype not in (np.uint8, np.uint16):
        found = f"{pixels.shape}, {pixels.dtype}"
        raise UserError(f"{path}: is not a gray or RGB image of 8 or 16 bits ({found})")
    if pixels.dtype == np.uint16:
        _check_maximum(path, pixels)
    return pixels, profile


def read_image_with_metadata(path):
    """Read an image file, or the first of its frames or pages, turned by its EXIF orientation.

    Returns an array (H, W, C), uint8 or uint16, C 1 (gray), 2 (and alpha), 3 (RGB) or 4 (and
    alpha), colors as they are stored; and options of `write_image`.
    """
    path = Path(path)
    pixels, profile = _read(path)
    metadata = {"icc_profile": profile}
    with contextlib.suppress(Exception), _open(path) as file:  # damaged metadata is left out
        dpi = tuple(map(float, file.info.get("dpi", ())))
        if len(dpi) == 2 and all(0 < value < 2**16 for value in dpi):
            metadata["dpi"] = dpi
        metadata["exif"] = _kept_exif(file)
    return pixels, metadata


def read_image(path, alpha=False):
    """Read the pixels (H, W, C) of an image file, without their alpha unless `alpha` is true."""
    image, _ = _read(Path(path))
    if not alpha and image.shape[2] in (2, 4):
        image = image[:, :, :-1]
    return np.ascontiguousarray(image)


def image_size(path):
    """Return (height, width) of an image file from its header, as `read_image` will give it."""
    path = Path(path)
    with _report_unreadable(path):
        header = read_tiff_header(path)
        if header:
            _check_pixels(path, *header.size)
            return header.size
        with _open(path) as file:
            if file.format == "PNG" and not PNG_EXIF.search(path.read_bytes()):
                return file.size[::-1]
            is_rotated = file.getexif().get(ORIENTATION, 1) >= 5
            return file.size if is_rotated else file.size[::-1]


def write_image(path, image, **metadata):
    """Write (H, W) or (H, W, 1 to 4), uint8 or uint16, as TIFF if the name ends so, else as PNG.

    Metadata are icc_profile and exif (bytes) and dpi (x, y); any may be None. The write is atomic.
    """
    path = Path(path)
    image = image[:, :, None] if image.ndim == 2 else image
    write = write_tiff if path.suffix.lower() in TIFF else write_png
    with report_write_errors(path), atomic_path(path) as partial, open(partial, "wb") as file:
        write(file, image, **metadata)


def to_channels(image, n_colors):
    """Return an image (H, W, 1 or 3) with the channels that the network takes.

    3: gray is repeated. 1: Y of BT.601, float32 in [0, 255], of gray as of three equal channels.
    """
    if n_colors == 3:
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    weights = np.array(LUMA if image.shape[2] == 3 else (sum(LUMA),), np.float32)
    weights /= np.iinfo(image.dtype).max
    return (image.astype(np.float32) @ weights + np.float32(16))[:, :, None]


def to_tensor(image):
    """Return an array (H, W, C) as a tensor (C, H, W) in [0, 255]; uint16 becomes float32.

    The pixels stay in the order of (H, W, C), which is that of channels_last.
    """
    if image.dtype == np.uint16:
        image = image.astype(np.float32) * np.float32(255 / 65535)
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def to_uint8(tensor, rgb_range):
    """Return a tensor (C, H, W) in [0, rgb_range] as rounded uint8 (H, W, C)."""
    tensor = (tensor.float() * (255 / rgb_range)).round().clamp(0, 255)
    return tensor.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
