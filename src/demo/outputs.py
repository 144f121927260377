"""Names and file formats of upscaled pictures and videos.

PNG and TIFF are lossless and keep 8 or 16 bits. JPEG and WebP hold less: a picture that does not
fit (alpha in JPEG, 16 bits, too large) is written as PNG.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from data.datasets import VIDEO_EXTENSIONS
from data.image import TIFF, write_image
from runtime.files import UserError, atomic_path, report_write_errors, shorten

FORMATS = ("png", "tif", "jpg", "webp")
PICTURE_EXTENSIONS = (".png", *sorted(TIFF), ".jpg", ".jpeg", ".webp")
NOT_WRITTEN = (".bmp", ".gif", ".ppm", ".pgm", ".avif", ".heic")  # pictures that are not written
JPEG, WEBP = (".jpg", ".jpeg"), (".webp",)
MAX_SIDE = {".jpg": 65_535, ".jpeg": 65_535, ".webp": 16_383}
QUALITY = 95  # of JPEG (full color resolution) and WebP
MAX_JPEG_EXIF = 65_500  # bytes that its segment holds


def _default_names(files, suffix, extension):
    """Yield NAME + suffix + extension for each input."""
    # NAME keeps its own extension if two files share a stem.
    keys = [(path.stem, path.suffix.lower() in VIDEO_EXTENSIONS) for path in files]
    for path, key in zip(files, keys, strict=True):
        stem = path.name if keys.count(key) > 1 else path.stem
        end = f"{suffix}{'.mp4' if key[1] else extension}"
        yield shorten(stem, max(255 - len(os.fsencode(end)), 9)) + end


def output_paths(files, out, suffix="", extension=".png"):
    """Return the output path of each input file.

    Args:
        files: list of pictures and videos.
        out: a file (.png, .tif, .jpg, .webp or .mp4) for a single input; otherwise a folder, for
            NAME.png of each picture and NAME.mp4 of each video. Inputs that differ only in their
            extension (a.png, a.jpg) keep it: a.png.png, a.jpg.png.
        suffix: text between NAME and the extension.
        extension: of pictures in a folder.
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


def write_picture(path, pixels, metadata):
    """Write an upscaled picture atomically, in the format of its extension.

    Args:
        path: see `PICTURE_EXTENSIONS`.
        pixels: (H, W, C), C 1 to 4, uint8 or uint16.
        metadata: dict of `data.image.read_image_with_metadata`.
    """
    extension = path.suffix.lower()
    if extension not in (*JPEG, *WEBP):
        write_image(path, pixels, **metadata)
        return
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image = image.convert("RGBA") if image.mode == "LA" else image
    options = {"quality": QUALITY} | {name: value for name, value in metadata.items() if value}
    if len(options.get("exif", b"")) > MAX_JPEG_EXIF:
        del options["exif"]
    options |= {"format": "JPEG", "subsampling": 0} if extension in JPEG else {"format": "WEBP"}
    with report_write_errors(path), atomic_path(path) as partial:
        image.save(partial, **options)
