"""Image files that users meet: modes, wrong endings, broken profiles, many pixels, several pages."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.image import MODES, image_size, read_image, read_image_with_profile
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
    image, _ = read_image_with_profile(path)
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
    ],
)
def test_other_kinds_of_numbers_and_colors_are_refused_by_name(tmp_path, pixels, more, word):
    shape = (20, 30, 3) if more.get("photometric") == "cielab" else (20, 30)
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
    (tmp_path / "one.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )
    with pytest.raises(UserError, match=r"one\.png"):
        read_image(tmp_path / "one.png")


def test_16_bit_gray_with_a_transparent_value(tmp_path):
    gray = np.array([[7, 300], [65535, 300]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "key.png", transparency=300)
    image = read_image(tmp_path / "key.png", alpha=True)
    assert np.array_equal(image[:, :, 0], gray)
    assert np.array_equal(image[:, :, 1], [[65535, 0], [65535, 0]])


def test_16_bit_colors_without_opencv_name_the_package(tmp_path, photo, monkeypatch):
    from data.image import write_image

    wide = np.asarray(photo).astype(np.uint16) * 257
    write_image(tmp_path / "wide.png", wide)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    for call in (read_image, lambda path: write_image(path, wide)):
        with pytest.raises(UserError, match=r"wide\.png.*pip install opencv-python-headless"):
            call(tmp_path / "wide.png")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.png"]


def test_lzw_of_16_bits(tmp_path, photo):
    cv2 = pytest.importorskip("cv2")
    wide = np.asarray(photo).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "lzw.tif"), wide[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    with tifffile.TiffFile(tmp_path / "lzw.tif") as file:
        assert file.pages[0].compression == 5
    assert np.array_equal(read_image(tmp_path / "lzw.tif"), wide)


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
def test_one_page_of_several_is_read_and_said(tmp_path, photo, ending, capsys):
    first, second = photo.quantize(8), photo.rotate(180).quantize(8)
    if ending != ".gif":
        first, second = first.convert("RGB"), second.convert("RGB")
    more = {"lossless": True} if ending == ".webp" else {}
    first.save(tmp_path / f"many{ending}", save_all=True, append_images=[second], **more)
    assert np.array_equal(read_image(tmp_path / f"many{ending}"), np.asarray(first.convert("RGB")))
    assert f"many{ending}: page 1 of 2 is read" in capsys.readouterr().err
