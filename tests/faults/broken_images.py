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
ODD = (
    "cmyk.jpg cmyk.tif 16.png 16.tif grey16.png float.tif 1bit.png palette.png alpha.png la.png"
).split()
ODD += (
    "gif.png animated.webp animated.png animated.tif dot.png line.png column.png text.png lab.tif"
).split()
ODD += ["int32.tif", "stack.tif", "jpg.tif", "empty.png"]


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
    modes = {
        "cmyk.jpg": "CMYK",
        "cmyk.tif": "CMYK",
        "1bit.png": "1",
        "palette.png": "P",
        "alpha.png": "RGBA",
        "la.png": "LA",
    }
    made = {name: _saved(image.convert(mode), name.split(".")[1]) for name, mode in modes.items()}
    made.update(
        {f"animated.{kind}": _saved(image, kind, **frames) for kind in ("webp", "png", "tif")}
    )
    made["gif.png"] = _saved(image, "gif", **frames)
    made["jpg.tif"], made["text.png"], made["empty.png"] = (
        _saved(image, "jpg"),
        b"a text, no picture\n" * 9,
        b"",
    )
    for name, size in {"dot": (1, 1), "line": (40, 1), "column": (1, 40)}.items():
        made[f"{name}.png"] = _saved(image.crop((0, 0, *size)), "png")
    made["16.tif"], made["float.tif"] = _tiff(wide), _tiff(pixels.astype(np.float32))
    made["int32.tif"], made["stack.tif"] = (
        _tiff(pixels[:, :, 0].astype(np.int32)),
        _tiff(np.stack([wide] * 3)),
    )
    made["lab.tif"] = _tiff(pixels, photometric="cielab")
    made["grey16.png"] = _saved(Image.fromarray(wide[:, :, 0]), "png")
    made["16.png"] = png_of_declared(
        *pixels.shape[1::-1], 16, 2, zlib.compress(b"".join(b"\0" + row.tobytes() for row in wide))
    )
    return made


def sources(pixels):
    """Give {name: bytes} of all images that examples are made from; the ending of the name is that of the file.

    Args:
        pixels: (H, W, 3) uint8.
    """
    return {f"plain.{kind}": _saved(Image.fromarray(pixels), kind) for kind in PLAIN} | _odd(pixels)


def png_of_declared(width, height, bits, colours, data):
    """Make a PNG file that declares a size, whatever its data are."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def _tiff_of_declared(width, height, bits, compression):
    """Make a TIFF file of one strip of 64 bytes that declares a size."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, compression),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, height),
        (279, 64),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    body = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    return body.ljust(200, b"\0") + zlib.compress(b"\0" * 5000).ljust(64, b"\0")


def bombs():
    """Give (ending, bytes): files of some hundred bytes that declare images of up to 10^10 pixels."""
    side = st.sampled_from([9000, 12000, 40000, 65500, 100000, 2**31 - 1])
    zeros = zlib.compress(b"\0" * 100000)
    png = st.builds(lambda w, h, b, c: (".png", png_of_declared(w, h, b, c, zeros)), side, side, st.sampled_from([8, 16]),
                    st.sampled_from([0, 2, 6]))  # fmt: skip
    tif = st.builds(lambda w, h, b, c: (".tif", _tiff_of_declared(w, h, b, c)), side, side, st.sampled_from([8, 16, 16]),
                    st.sampled_from([1, 8]))  # fmt: skip
    ppm = st.builds(lambda w, h, m: (".ppm", b"P6\n%d %d\n%d\n" % (w, h, m) + b"\0" * 100), side, side,
                    st.sampled_from([255, 65535]))  # fmt: skip
    header = struct.Struct("<IIIIiiHHIIIIII")
    bmp = st.builds(
        lambda w, h: (
            ".bmp",
            b"BM" + header.pack(200, 0, 54, 40, w, h, 1, 24, *[0] * 6) + b"\0" * 100,
        ),
        side,
        side,
    )
    return png | tif | ppm | bmp


def images(made):
    """Give (ending, bytes) of an image: as it is, cut, with bytes changed, under another ending, or a bomb."""
    return _images(made).map(lambda image: (image[0], Content(image[1])))


@st.composite
def _images(draw, made):
    kind = draw(
        st.sampled_from(["whole", "cut", "cut", "flip", "flip", "flip", "ending", "bomb", "bomb"])
    )
    if kind == "bomb":
        return draw(bombs())
    name = draw(st.sampled_from(sorted(made)))
    content, ending = made[name], "." + name.split(".")[1]
    if kind == "cut":
        return ending, content[: draw(st.integers(0, max(len(content) - 1, 0)))]
    if kind == "flip" and content:
        content = bytearray(content)
        near = draw(
            st.sampled_from([len(content) - 1, min(60, len(content) - 1)])
        )  # half of them in the header
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, near))] = draw(st.integers(0, 255))
        return ending, bytes(content)
    if kind == "ending":
        ending = draw(
            st.sampled_from([".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm", ".PNG", ".TIFF"])
        )
    return ending, content
