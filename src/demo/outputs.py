"""Names and file formats of upscaled pictures and videos.

PNG and TIFF are lossless and keep 8 or 16 bits. JPEG and WebP hold less: a picture that does not
fit (alpha in JPEG, 16 bits, too large) is written as PNG.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from data.datasets import VIDEO_EXTENSIONS
from data.image import TIFF, write_image
from runtime.files import UserError, atomic_path, report_write_errors

FORMATS = ("png", "tif", "jpg", "webp")
PICTURE_EXTENSIONS = (".png", *sorted(TIFF), ".jpg", ".jpeg", ".webp")
NOT_WRITTEN = (".bmp", ".gif", ".ppm", ".pgm", ".avif", ".heic")  # pictures that are not written
JPEG, WEBP = (".jpg", ".jpeg"), (".webp",)
MAX_SIDE = {".jpg": 65_535, ".jpeg": 65_535, ".webp": 16_383}
QUALITY = 95  # of JPEG (full color resolution) and WebP
MAX_PILLOW_PIXELS = 2**28  # Pillow copies a picture before it writes PNG; larger ones are streamed
PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: color type
PNG_FILTER_UP = 2
ROWS_PER_CHUNK = 64


def _default_names(files, suffix, extension):
    """Yield NAME + suffix + extension for each input.

    NAME keeps its own extension if two files share a stem.
    """
    keys = [(path.stem, path.suffix.lower() in VIDEO_EXTENSIONS) for path in files]
    for path, key in zip(files, keys, strict=True):
        stem = path.name if keys.count(key) > 1 else path.stem
        yield f"{stem}{suffix}{'.mp4' if key[1] else extension}"


def output_paths(files, out, suffix="", extension=".png"):
    """Return the output path of each input file.

    Args:
        files: list of pictures and videos.
        out: a file (.png, .tif, .jpg, .webp or .mp4) for a single input; otherwise a folder, for
            NAME.png of each picture and NAME.mp4 of each video. Inputs that differ only in their
            extension (a.png, a.jpg) keep it: a.png.png, a.jpg.png.
        suffix: text between NAME and the extension.
        extension: of pictures in a folder.

    Raises:
        UserError: one output file for several inputs, or an extension that is not written.
    """
    out = Path(out)
    written, video = out.suffix.lower(), files[0].suffix.lower() in VIDEO_EXTENSIONS
    known = {*PICTURE_EXTENSIONS, *VIDEO_EXTENSIONS, *NOT_WRITTEN}
    if out.is_dir() or written not in known:
        return [out / name for name in _default_names(files, suffix, extension)]
    if len(files) > 1 or suffix:
        raise UserError(
            f"--dir_out {out} must be a folder, not a file, for several inputs or with --suffix"
        )
    allowed = (".mp4",) if video else PICTURE_EXTENSIONS
    if written not in allowed:
        names = ", ".join(allowed)
        raise UserError(f"--dir_out {out} must end in {names} for the input {files[0].name}")
    return [out]


def path_that_holds(path, pixels):
    """Return `path`, or its name as .png if its format cannot hold the picture.

    Args:
        path: of a JPEG, WebP, PNG or TIFF file.
        pixels: (H, W, C) as upscaled: uint8 or uint16, C 1 to 4.

    Returns:
        (path, reason): reason is None, or the end of a sentence.
    """
    extension = path.suffix.lower()
    if extension not in (*JPEG, *WEBP):
        return path, None
    reason = None
    if pixels.dtype == np.uint16:
        reason = "16 bits"
    elif extension in JPEG and pixels.shape[2] in (2, 4):
        reason = "transparency"
    elif max(pixels.shape[:2]) > MAX_SIDE[extension]:
        reason = f"more than {MAX_SIDE[extension]:,} pixels on a side"
    if reason is None:
        return path, None
    return path.with_suffix(".png"), f"{extension[1:]} cannot hold {reason}"


def write_picture(path, pixels, profile=None):
    """Write an upscaled picture atomically, in the format of its extension.

    Args:
        path: see `PICTURE_EXTENSIONS`.
        pixels: (H, W, C), C 1 to 4, uint8 or uint16.
        profile: bytes of an ICC profile, or None.

    Raises:
        UserError: it cannot be written.
    """
    extension = path.suffix.lower()
    if extension in (*JPEG, *WEBP):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        options = {"quality": QUALITY, "icc_profile": profile}
        if extension in JPEG:
            options |= {"format": "JPEG", "subsampling": 0}
        else:
            options |= {"format": "WEBP"}
            image = image.convert("RGBA") if image.mode == "LA" else image
        with report_write_errors(path), atomic_path(path) as partial:
            image.save(partial, **options)
    elif extension not in TIFF and pixels.shape[0] * pixels.shape[1] > MAX_PILLOW_PIXELS:
        with report_write_errors(path), atomic_path(path) as partial, open(partial, "wb") as file:
            stream_png(file, pixels, profile)
    else:
        write_image(path, pixels, profile)


def stream_png(file, pixels, profile=None):
    """Write a picture as PNG to a binary file, a few rows at a time.

    Pillow and OpenCV hold a copy of the whole picture, which is too much for thousands of
    megapixels. Each row is stored as its difference to the row above (filter Up).

    Args:
        file: a binary file.
        pixels: (H, W, C), C 1 to 4, uint8 or uint16; may be mapped from a file.
        profile: bytes of an ICC profile, or None.
    """
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize

    def write_chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        file.write(struct.pack(">I", len(body)) + kind + body + crc)

    file.write(b"\x89PNG\r\n\x1a\n")
    color_type = PNG_COLOR_TYPES[channels]
    write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    if profile:
        write_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    compressor = zlib.compressobj(6)
    above = np.zeros((1, width * channels * depth // 8), np.uint8)
    for top in range(0, height, ROWS_PER_CHUNK):
        rows = pixels[top : top + ROWS_PER_CHUNK].astype(f">u{depth // 8}", order="C")
        rows = rows.view(np.uint8).reshape(-1, above.shape[1])  # big-endian bytes
        filtered = np.full((len(rows), above.shape[1] + 1), PNG_FILTER_UP, np.uint8)
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        write_chunk(b"IDAT", compressor.compress(filtered.tobytes()))
    write_chunk(b"IDAT", compressor.flush())
    write_chunk(b"IEND", b"")
