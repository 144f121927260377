"""Image files of every kind that may come, whole and broken, as bytes made from one photograph."""

import io
import struct
import zlib

import numpy as np
import tifffile
from generated import Content
from hypothesis import strategies as st
from PIL import Image

PLAIN = ["png", "jpg", "bmp", "tif", "webp", "ppm"]
_FORMATS = {"jpg": "JPEG", "tif": "TIFF"}


def _saved(image, kind, **more):
    file = io.BytesIO()
    image.save(file, _FORMATS.get(kind, kind.upper()), **more)
    return file.getvalue()


def _tiff(array, **more):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **more)
    return file.getvalue()


def _odd(pixels):
    """Give {name: bytes} of unusual images."""
    image = Image.fromarray(pixels)
    frames = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1].copy())]}
    wide = pixels.astype(np.uint16) * 257
    modes = {"cmyk.jpg": "CMYK", "cmyk.tif": "CMYK", "1bit.png": "1"}
    modes |= {"palette.png": "P", "alpha.png": "RGBA", "la.png": "LA"}
    made = {name: _saved(image.convert(mode), name.split(".")[1]) for name, mode in modes.items()}
    for kind in ("webp", "png", "tif"):
        made[f"animated.{kind}"] = _saved(image, kind, **frames)
    for name, size in {"dot": (1, 1), "line": (40, 1), "column": (1, 40)}.items():
        made[f"{name}.png"] = _saved(image.crop((0, 0, *size)), "png")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in wide))
    return made | {
        "gif.png": _saved(image, "gif", **frames),
        "jpg.tif": _saved(image, "jpg"),
        "text.png": b"a text, no picture\n" * 9,
        "empty.png": b"",
        "16.tif": _tiff(wide),
        "float.tif": _tiff(pixels.astype(np.float32)),
        "int32.tif": _tiff(pixels[:, :, 0].astype(np.int32)),
        "stack.tif": _tiff(np.stack([wide] * 3)),
        "lab.tif": _tiff(pixels, photometric="cielab"),
        "grey16.png": _saved(Image.fromarray(wide[:, :, 0]), "png"),
        "16.png": png_of_declared(*pixels.shape[1::-1], 16, 2, rows),
    }


def sources(pixels):
    """Give {name: bytes} of all images that examples are made from; the ending of the name is that of the file.

    Args:
        pixels: (H, W, 3) uint8.
    """
    return {f"plain.{kind}": _saved(Image.fromarray(pixels), kind) for kind in PLAIN} | _odd(pixels)


def png_of_declared(width, height, bits, colors, data):
    """Make a PNG file that declares a size, whatever its data are."""
    header = struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _tiff_of_declared(width, height, bits, compression):
    """Make a TIFF file of one strip of 64 bytes that declares a size."""
    tags = [(256, width), (257, height), (258, bits), (259, compression), (262, 1)]
    tags += [(273, 200), (277, 1), (278, height), (279, 64)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    body = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    return body.ljust(200, b"\0") + zlib.compress(b"\0" * 5000).ljust(64, b"\0")


@st.composite
def bombs(draw):
    """Give (ending, bytes): files of some hundred bytes that declare images of up to 10^10 pixels."""
    sides = st.sampled_from([9000, 12000, 40000, 65500, 100000, 2**31 - 1])
    width, height, bits = draw(sides), draw(sides), draw(st.sampled_from([8, 16]))
    kind = draw(st.sampled_from([".png", ".tif", ".ppm", ".bmp"]))
    if kind == ".png":
        zeros, colors = zlib.compress(b"\0" * 100000), draw(st.sampled_from([0, 2, 6]))
        return kind, png_of_declared(width, height, bits, colors, zeros)
    if kind == ".tif":
        return kind, _tiff_of_declared(width, height, bits, draw(st.sampled_from([1, 8])))
    if kind == ".ppm":
        return kind, b"P6\n%d %d\n%d\n" % (width, height, 2**bits - 1) + b"\0" * 100
    header = struct.pack("<IIIIiiHHIIIIII", 200, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    return kind, b"BM" + header + b"\0" * 100


def images(made):
    """Give (ending, bytes) of an image: as it is, cut, with bytes changed, under another ending, or a bomb."""
    return _images(made).map(lambda image: (image[0], Content(image[1])))


@st.composite
def _images(draw, made):
    kinds = ["whole", "cut", "cut", "flip", "flip", "flip", "ending", "bomb", "bomb"]
    kind = draw(st.sampled_from(kinds))
    if kind == "bomb":
        return draw(bombs())
    name = draw(st.sampled_from(sorted(made)))
    content, ending = made[name], "." + name.split(".")[1]
    if kind == "cut":
        return ending, content[: draw(st.integers(0, max(len(content) - 1, 0)))]
    if kind == "flip" and content:
        content = bytearray(content)
        # half of them in the header
        near = draw(st.sampled_from([len(content) - 1, min(60, len(content) - 1)]))
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, near))] = draw(st.integers(0, 255))
        return ending, bytes(content)
    if kind == "ending":
        endings = [".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm", ".PNG", ".TIFF"]
        ending = draw(st.sampled_from(endings))
    return ending, content
