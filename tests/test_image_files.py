"""Image files that users meet: modes, wrong endings, broken profiles, many pixels, several pages."""

import base64
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import data.image
from data.image import MODES, image_size, read_image, read_image_with_metadata, write_image
from runtime.files import UserError

# a mode of Pillow and a file that keeps it
STORED = {
    "1": "one.png",
    "L": "one.png",
    "LA": "one.png",
    "P": "one.png",
    "RGB": "one.bmp",
    "RGBA": "one.webp",
    "CMYK": "one.jpg",
    "LAB": "one.tif",
    "YCbCr": "one.tif",
    "PA": "one.tif",
    "I;16": "one.png",
}

# a TIFF of 6x5 pixels with the predictor, as libtiff writes it: tifffile writes no LZW
LZW_OF_16_BITS = (
    "Nl7XIPyhe`fB*ms&=KegHv~c<P?%&c9SjMIS^~6ax*r#Y#$f_tlZ>dKE5;;Ipg`pI_CBo85;<frn4|=$*vgq~w7$&_"
    "G#f1`tdbW23;+ND0{{U4000F5000320{{U4000I6000630{{a6008Cy000940{{U4000F5000I70{{U400062000pI"
    "1ONd5000O8000#M0{{U400093000&N0{{U4000I6000*O1ONd5002k;000~T0{{U400031002D!0{{U400062002_~"
    "0{{a6008U&00000000mG5C9MW0RRC20RR"
)


@pytest.fixture
def photo(photographs):
    return Image.fromarray(photographs["coffee"])


def in_mode(photo, mode):
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return photo.convert("RGBA").convert(mode) if mode == "PA" else photo.convert(mode)


@pytest.mark.parametrize("mode", STORED)
def test_colors_of_a_mode_are_those_of_pillow(photo, tmp_path, mode):
    path = tmp_path / STORED[mode]
    try:
        in_mode(photo, mode).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {mode}")
    with Image.open(path) as file:
        mode = file.mode  # as it is read again
        target = MODES.get(mode, mode)
        wanted = np.asarray(file if mode == "I;16" else file.convert(target))
    image, _ = read_image_with_metadata(path)
    assert image.dtype == wanted.dtype
    assert np.array_equal(image.squeeze(), wanted)
    assert image_size(path) == wanted.shape[:2]
    if target in ("RGB", "RGBA"):
        original = np.asarray(photo).astype(int)
        assert np.abs(image[:, :, :3] - original).mean() < 25, "other colors than the photograph's"


@pytest.mark.parametrize(
    ("pixels", "more", "word"),
    [
        (np.float32, {}, "IEEEFP"),
        (np.int16, {}, "INT"),
        (np.int8, {}, "INT"),
        (np.uint32, {}, "32 bits"),
        (np.uint8, {"photometric": "cfa"}, "CFA"),
        (np.uint16, {"photometric": "cielab", "planarconfig": "contig"}, "CIELAB"),
        (
            np.uint16,
            {"photometric": "minisblack", "planarconfig": "contig"},
            "MINISBLACK of 3 bands",
        ),
    ],
)
def test_other_kinds_of_numbers_and_colors_are_refused_by_name(tmp_path, pixels, more, word):
    shape = (20, 30, 3) if "planarconfig" in more else (20, 30)
    tifffile.imwrite(tmp_path / "odd.tif", np.ones(shape, pixels), **more)
    with pytest.raises(UserError, match=rf"odd\.tif: .*{word}"):
        read_image(tmp_path / "odd.tif")


def test_a_mode_of_pillow_that_is_not_known_is_refused_by_name(tmp_path, monkeypatch, photo):
    monkeypatch.delitem(MODES, "CMYK")
    photo.convert("CMYK").save(tmp_path / "one.jpg")
    with pytest.raises(UserError, match=r"one\.jpg.*mode CMYK"):
        read_image(tmp_path / "one.jpg")


@pytest.mark.parametrize(("kind", "ending"), [("png", ".tif"), ("tiff", ".png"), ("webp", ".jpg")])
def test_the_content_decides_not_the_ending(photo, tmp_path, kind, ending):
    path = tmp_path / f"one{ending}"
    photo.save(path, format=kind, **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(read_image(path), np.asarray(photo))
    assert image_size(path) == (98, 121)


def test_a_16_bit_tiff_named_png_keeps_its_bits(photo, tmp_path):
    wide = np.asarray(photo).astype(np.uint16) * 256 + 7
    with open(tmp_path / "one.png", "wb") as file:
        tifffile.imwrite(file, wide, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "one.png"), wide)


def test_a_program_of_postscript_is_not_run(tmp_path):
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    (tmp_path / "one.png").write_bytes(program)
    with pytest.raises(UserError, match=r"one\.png"):
        read_image(tmp_path / "one.png")


def test_16_bit_gray_with_a_transparent_value(tmp_path):
    gray = np.array([[7, 300], [65535, 300]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "key.png", transparency=300)
    image = read_image(tmp_path / "key.png", alpha=True)
    assert np.array_equal(image[:, :, 0], gray)
    assert np.array_equal(image[:, :, 1], [[65535, 0], [65535, 0]])


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["plain", "interlaced", "paeth", "cut"])
def test_16_bit_colors_of_png_keep_every_bit(tmp_path, channels, kind):
    wide = np.random.default_rng(0).integers(0, 65536, (41, 23, channels), np.uint16)
    path = tmp_path / "wide.png"
    if kind == "plain":
        write_image(path, wide)
    else:
        path.write_bytes(png_by_hand(wide, kind))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-800])
        with pytest.raises(UserError, match=r"wide\.png: cannot be read as an image"):
            read_image(path)
        return
    assert np.array_equal(read_image(path, alpha=True), wide)


def png_by_hand(pixels, kind):
    """Return a PNG of 16 bits: without filters, interlaced, or with the filter Paeth."""
    height, width, channels = pixels.shape
    color_type, is_interlaced = {2: 4, 3: 2, 4: 6}[channels], kind == "interlaced"
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, is_interlaced)
    passes = [pixels]
    if is_interlaced:
        grid = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2))
        grid += ((1, 2, 0, 1),)
        passes = [pixels[top::down, left::right] for top, down, left, right in grid]
    data, bpp = b"", 2 * channels
    for part in passes:
        rows = part.astype(">u2").tobytes()
        length = part.shape[1] * bpp
        above = bytes(length)
        for row in (rows[i : i + length] for i in range(0, len(rows), length)):
            data += b"\4" + paeth(row, above, bpp) if kind == "paeth" else b"\0" + row
            above = row
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def paeth(row, above, bpp):
    """Filter a row of a PNG by Paeth, byte by byte, as its specification says."""
    out = bytearray()
    for i, value in enumerate(row):
        left, up, corner = (
            (row[i - bpp], above[i], above[i - bpp]) if i >= bpp else (0, above[i], 0)
        )
        guess = left + up - corner
        out.append((value - min((left, up, corner), key=lambda near: abs(guess - near))) % 256)
    return bytes(out)


def test_16_bit_colors_of_lzw(tmp_path):
    (tmp_path / "lzw.tif").write_bytes(base64.b85decode(LZW_OF_16_BITS))
    wide = (np.arange(6 * 5 * 3) * 701).astype(np.uint16).reshape(6, 5, 3)
    assert np.array_equal(read_image(tmp_path / "lzw.tif"), wide)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_16_bit_gray_of_other_compressions(tmp_path, photo, compression):
    gray = np.asarray(photo.convert("L")).astype(np.uint16) * 256 + 7
    for turns, orientation in ((0, 1), (-1, 6)):
        more = {"compression": compression, "tiffinfo": {274: orientation}}
        Image.fromarray(gray).save(tmp_path / "gray.tif", **more)
        assert np.array_equal(read_image(tmp_path / "gray.tif")[:, :, 0], np.rot90(gray, turns))


@pytest.mark.parametrize(("bits", "ending"), [(10, "png"), (12, "tif"), (14, "png"), (12, "pgm")])
def test_fewer_bits_in_16_are_said_once_a_folder(tmp_path, photo, bits, ending, capsys):
    gray = np.asarray(photo.convert("L")) * np.uint32(2**bits - 1) // 255
    gray = gray.astype(np.uint16)
    gray[0, 0] = 2**bits - 1
    for name in ("a", "b"):
        Image.fromarray(gray).save(tmp_path / f"{name}.{ending}")
        read_image(tmp_path / f"{name}.{ending}")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"a.{ending}: largest value {2**bits - 1} of 65535" in err
    write_image(tmp_path / "full.png", gray * np.uint16(2 ** (16 - bits)))
    read_image(tmp_path / "full.png")
    assert capsys.readouterr().err == ""


def test_cmyk_with_a_broken_profile_is_converted_without_it(tmp_path, photo, capsys):
    # reported as realesrgan-gui #34
    cmyk = photo.convert("CMYK")
    cmyk.save(tmp_path / "plain.tif")
    cmyk.save(tmp_path / "broken.tif", icc_profile=b"garbage" * 20)
    assert np.array_equal(read_image(tmp_path / "plain.tif"), read_image(tmp_path / "broken.tif"))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "broken.tif: its ICC profile is damaged" in err


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
def test_too_many_pixels_in_plain_words(sr, tmp_path, photo, ending):
    # reported as video2x #473
    (tmp_path / "in").mkdir()
    photo.save(tmp_path / f"in/one{ending}")
    flags = ["--model", "Bicubic", "--scale", 2, "--data_test", "Demo", "--test_only", "--cpu"]
    where = ["--dir_demo", tmp_path / "in", "--dir_out", tmp_path / "out"]
    status, _, err = sr(*flags, *where, "--max_pixels", 98 * 121 - 1)
    assert status == 1
    assert f"one{ending}: 121x98 = 11,858 pixels are more than --max_pixels 11,857" in err
    assert sr(*flags, *where, "--max_pixels", 98 * 121)[0] == 0


@pytest.mark.parametrize("ending", [".tif", ".webp", ".png", ".gif"])
def test_one_page_of_several_is_read_and_said(tmp_path, photo, ending, capsys, monkeypatch):
    monkeypatch.setitem(data.image._settings, "notices", 0)
    first, second = photo.quantize(8), photo.rotate(180).quantize(8)
    if ending != ".gif":
        first, second = first.convert("RGB"), second.convert("RGB")
    more = {"lossless": True} if ending == ".webp" else {}
    first.save(tmp_path / f"many{ending}", save_all=True, append_images=[second], **more)
    assert np.array_equal(read_image(tmp_path / f"many{ending}"), np.asarray(first.convert("RGB")))
    tifffile.imwrite(tmp_path / "deep.tif", np.ones((2, 9, 9), np.uint16))
    read_image(tmp_path / "deep.tif")
    err = capsys.readouterr().err
    assert f"many{ending}: page 1 of 2 is read" in err and "deep.tif: page 1 of 2 is read" in err
