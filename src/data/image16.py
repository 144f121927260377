"""Images of 16 bits a channel, of which Pillow, and with it imageio, keeps 8 where there is more than one channel.

Pillow's own decoders are made to give the two bytes of each value one after the other, so that filters, interlacing and
compression stay their business; TIFF is read by tifffile. PNG is written here, since no library of the project can.
"""

import struct
import sys
import zlib
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps

from runtime.errors import UserError

PNG_COLOUR_TYPES = {
    1: 0,
    2: 4,
    3: 2,
    4: 6,
}  # channels: colour type of IHDR (PNG specification, table 9)
IMAGECODECS_NEEDED = (
    5,
    32773,
)  # compressions of TIFF, LZW and PackBits, that tifffile leaves to another package


def _raw_mode(file):
    """Give Pillow's name of how the pixels lie in the file, such as RGB;16B."""
    args = file.tile[0][3] if file.tile else ""
    return args if isinstance(args, str) else str(args[0])


def is_cut(file):
    """Tell whether Pillow would cut the 16 bits of an opened image to 8."""
    return ";16" in _raw_mode(file) and file.mode in ("RGB", "RGBA")


def _opened_as(path, mode, raw_mode):
    """Decode an image file, taking its pixels as Pillow's `raw_mode`, and turn it as its EXIF orientation says."""
    with Image.open(path) as file:
        tiles = [
            (*tile[:3], raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:]))
            for tile in file.tile
        ]
        make = getattr(type(file.tile[0]), "_make", tuple)  # a named tuple from Pillow 11 on
        file.tile = [make(tile) for tile in tiles]
        if file.mode != mode:
            raise UserError(f"{path}: 16 bits in this form ({file.mode}) cannot be read")
        return np.asarray(ImageOps.exif_transpose(file))


def read_16bit(path):
    """Read an image of 16 bits a channel of which `is_cut` is true; (H, W, C) uint16, C 2, 3 or 4."""
    with Image.open(path) as file:
        mode, raw_mode = file.mode, _raw_mode(file)
    if raw_mode == "LA;16B":  # four bytes a pixel, which pass through as four channels of 8 bits
        pairs = _opened_as(path, mode, "RGBA").astype(np.uint16)
        return pairs[:, :, ::2] << 8 | pairs[:, :, 1::2]
    colours, _, order = raw_mode.partition(";")
    if colours not in ("RGB", "RGBA"):
        raise UserError(
            f"{path}: 16 bits in this form ({raw_mode}) cannot be read: save it as RGB or RGBA"
        )
    order = order.replace("N", "L" if sys.byteorder == "little" else "B")
    other = {"16B": "16L", "16L": "16B"}[
        order
    ]  # of the other byte order Pillow takes the low byte for the high one
    return _opened_as(path, mode, raw_mode).astype(np.uint16) << 8 | _opened_as(
        path, mode, f"{colours};{other}"
    )


class TiffHeader(NamedTuple):
    """What the first page of a TIFF file says; size is (height, width) of the image as it is to be seen."""

    size: tuple
    bits: int
    page: tifffile.TiffPage
    orientation: int


def tiff_header(file):
    """Read the header of an opened tifffile.TiffFile; raises ValueError for more pixels than Pillow would read."""
    page = file.pages.first
    tag = page.tags.get("Orientation")
    orientation = int(tag.value) if tag else 1
    size = (page.imagelength, page.imagewidth)
    if (
        size[0] * size[1] > 2 * Image.MAX_IMAGE_PIXELS
    ):  # as Pillow does: a small file may declare any size
        raise ValueError(
            f"{page.imagewidth}x{page.imagelength} pixels are more than the {2 * Image.MAX_IMAGE_PIXELS:,} of a picture"
        )
    return TiffHeader(
        size[::-1] if orientation >= 5 else size, page.bitspersample, page, orientation
    )


def _oriented(image, orientation):
    """Turn an image (H, W, ...) as the TIFF and EXIF tag Orientation says, 1 to 8."""
    image = image.swapaxes(0, 1) if orientation >= 5 else image
    return image[
        :: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1
    ]


def read_wide_tiff(path):
    """Read a TIFF file of more than 8 bits a channel.

    Returns:
        (array (H, W[, C]), ICC profile or None); None for a file of 8 bits or less, which Pillow reads.

    Raises:
        UserError: CMYK or premultiplied alpha, or a compression that another package is needed for.
    """
    with tifffile.TiffFile(path) as file:
        header = tiff_header(file)
        page = header.page
        profile = page.tags.get("InterColorProfile")
        profile = bytes(profile.value) if profile else None
        if header.bits <= 8:
            return None
        if page.photometric not in (0, 1, 2):
            raise UserError(
                f"{path}: TIFF of 16 bits is read as grey or RGB, not as {page.photometric.name}"
            )
        if 1 in page.extrasamples:
            raise UserError(
                f"{path}: TIFF of 16 bits with premultiplied alpha cannot be read: save it with plain alpha"
            )
        if (
            page.compression in IMAGECODECS_NEEDED
            and page.samplesperpixel >= 3
            and page.planarconfig == 1
        ):
            return read_16bit(path), profile
        image = page.asarray()
    image = np.moveaxis(image, 0, 2) if page.axes == "SYX" else image
    image = np.iinfo(image.dtype).max - image if page.photometric == 0 else image
    image = image[:, :, :4] if image.ndim == 3 and image.shape[2] > 4 else image
    return _oriented(image.astype(image.dtype.newbyteorder("=")), header.orientation), profile


def write_wide_png(file, image, profile=None):
    """Write (H, W, C) uint16, C 1 to 4, to a binary file as PNG (W3C specification, third edition), in memory of a few rows.

    Each row is stored as its difference to the row above (filter Up), which suits photographs and needs no choice.
    """
    height, width, channels = image.shape

    def chunk(kind, body):
        file.write(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0))
    if profile:
        chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    packer = zlib.compressobj(6)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, 64):
        rows = (
            np.ascontiguousarray(image[top : top + 64], ">u2")
            .view(np.uint8)
            .reshape(-1, above.shape[1])
        )
        filtered = np.full((len(rows), above.shape[1] + 1), 2, np.uint8)
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        chunk(b"IDAT", packer.compress(filtered.tobytes()))
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")
