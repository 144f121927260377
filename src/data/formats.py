"""TIFF and PNG of more than 8 bits a channel, whose colors Pillow would cut to 8 bits."""

import struct
import zlib
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from runtime.files import UserError

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF
# photometric interpretations that are understood: gray (2), RGB, palette, CMYK, YCbCr, CIELab
PHOTOMETRICS = (0, 1, 2, 3, 5, 6, 8)
PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: color type
ROWS_PER_CHUNK = 64


class TiffHeader(NamedTuple):
    """Header of the first page."""

    size: tuple  # (height, width) after the orientation is applied
    bits: int  # a channel
    orientation: int  # tag Orientation, 1 to 8
    profile: bytes | None  # ICC profile
    n_pages: int


def read_tiff_header(path):
    """Return the TiffHeader of a file, or None if it is not a TIFF, whatever its name says."""
    with open(path, "rb") as file:
        if file.read(4) not in TIFF_STARTS:
            return None
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        bits = int(np.max(page.bitspersample))
        if page.sampleformat != tifffile.SAMPLEFORMAT.UINT or bits > 16:
            kind = getattr(page.sampleformat, "name", page.sampleformat)
            raise UserError(f"{path}: TIFF of {bits} bits ({kind}): save it as 8 or 16 bits")
        if page.photometric not in PHOTOMETRICS:
            name = getattr(page.photometric, "name", page.photometric)
            raise UserError(f"{path}: TIFF of color space {name} cannot be read: save it as RGB")
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag else 1
        size = (page.imagelength, page.imagewidth)
        size = size[::-1] if orientation >= 5 else size
        profile = page.tags.get("InterColorProfile")
        profile = bytes(profile.value) if profile else None
        return TiffHeader(size, bits, orientation, profile, len(file.pages))


def apply_orientation(image, orientation):
    """Return an image (H, W, ...) turned by the Orientation tag (1 to 8) of TIFF or EXIF."""
    image = image.swapaxes(0, 1) if orientation >= 5 else image
    vertical = -1 if orientation in (3, 4, 7, 8) else 1
    horizontal = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::vertical, ::horizontal]


def read_deep_tiff(path, header, fallback):
    """Read a TIFF file of 9 to 16 bits a channel as (H, W[, C]), uint16.

    `fallback`, a function of the path, reads compressions that tifffile leaves to another package.
    """
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        bands, name = page.samplesperpixel, page.photometric.name
        if page.photometric not in (0, 1, 2) or bands > (4 if name == "RGB" else 2):
            raise UserError(f"{path}: 16-bit TIFF must be gray or RGB, not {name} of {bands} bands")
        if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
            raise UserError(f"{path}: TIFF of 16 bits has premultiplied alpha: save plain alpha")
        try:
            image = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error) or (page.planarconfig == 2 and bands > 1):
                raise
            image, header = fallback(path), header._replace(orientation=1)  # Pillow has applied it
        image = np.moveaxis(image, 0, 2) if page.axes == "SYX" else image
        image = 2**header.bits - 1 - image if page.photometric == 0 else image
    if header.bits < 16:
        image = image.astype(np.uint32) * 65535 // (2**header.bits - 1)
    return apply_orientation(image.astype(np.uint16), header.orientation)


def write_tiff(file, image, icc_profile=None, exif=None, dpi=None):
    """Write (H, W, 1 to 4), uint8 or uint16, to an opened binary file as TIFF.

    Of EXIF, text in the main directory is kept: tifffile writes no other directories.
    """
    channels, tags = image.shape[2], Image.Exif()
    tags.load(exif or b"")
    texts = [
        (tag, 2, None, text.encode("latin-1", "replace"), True)  # as Pillow has decoded it
        for tag, text in tags.items()
        if isinstance(text, str)
    ]
    tifffile.imwrite(
        file,
        image[:, :, 0] if channels == 1 else image,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=icc_profile,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        extratags=texts,
        software=False,
        metadata=None,
    )


def write_png(file, image, icc_profile=None, exif=None, dpi=None):
    """Write (H, W, 1 to 4), uint8 or uint16, to an opened binary file as PNG.

    A few rows at a time: the image may be mapped from a file of thousands of megapixels. Rows are
    stored as differences to the row above: on upscaled photographs this is faster than Pillow, and
    the files are a little smaller.
    """
    height, width, channels = image.shape
    depth = 8 * image.dtype.itemsize

    def write_chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        file.write(struct.pack(">I", len(body)) + kind + body + crc)

    file.write(b"\x89PNG\r\n\x1a\n")
    color_type = PNG_COLOR_TYPES[channels]
    write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    if icc_profile:
        write_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        write_chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if exif:
        write_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    compressor = zlib.compressobj(6)
    above = np.zeros((1, width * channels * depth // 8), np.uint8)
    for top in range(0, height, ROWS_PER_CHUNK):
        rows = image[top : top + ROWS_PER_CHUNK].astype(f">u{depth // 8}", order="C")
        rows = rows.view(np.uint8).reshape(-1, above.shape[1])  # big-endian bytes
        filtered = np.full((len(rows), above.shape[1] + 1), 2, np.uint8)  # 2: the filter Up
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        write_chunk(b"IDAT", compressor.compress(filtered.tobytes()))
    write_chunk(b"IDAT", compressor.flush())
    write_chunk(b"IEND", b"")
