"""Write PNG of 8 or 16 bits, a few rows at a time.

Pillow writes no colors of 16 bits, and copies the whole picture, which is too much for thousands of
megapixels. Rows are stored as differences to the row above (filter Up): on upscaled photographs
this is faster than Pillow, and the files are a little smaller.
"""

import struct
import zlib

import numpy as np

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: color type
FILTER_UP = 2
ROWS_PER_CHUNK = 64
INCH = 0.0254  # meters


def write_png(file, pixels, icc_profile=None, exif=None, dpi=None):
    """Write a picture as PNG to a binary file.

    Args:
        file: a binary file.
        pixels: (H, W, C), C 1 to 4, uint8 or uint16; may be mapped from a file.
        icc_profile, exif: bytes, or None.
        dpi: pixels per inch (x, y), or None.
    """
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize

    def write_chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        file.write(struct.pack(">I", len(body)) + kind + body + crc)

    file.write(b"\x89PNG\r\n\x1a\n")
    color_type = COLOR_TYPES[channels]
    write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    if icc_profile:
        write_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        write_chunk(b"pHYs", struct.pack(">IIB", *(round(value / INCH) for value in dpi), 1))
    if exif:
        write_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    compressor = zlib.compressobj(6)
    above = np.zeros((1, width * channels * depth // 8), np.uint8)
    for top in range(0, height, ROWS_PER_CHUNK):
        rows = pixels[top : top + ROWS_PER_CHUNK].astype(f">u{depth // 8}", order="C")
        rows = rows.view(np.uint8).reshape(-1, above.shape[1])  # big-endian bytes
        filtered = np.full((len(rows), above.shape[1] + 1), FILTER_UP, np.uint8)
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        write_chunk(b"IDAT", compressor.compress(filtered.tobytes()))
    write_chunk(b"IDAT", compressor.flush())
    write_chunk(b"IEND", b"")
