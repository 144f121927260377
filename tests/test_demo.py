"""Upscaling pictures without ground truth: every kind of file, alpha, tiles."""

import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from data.image import read_image, read_image_with_metadata, write_image
from data.resize import imresize
from demo.picture import UpscaleConfig, upscale_pixels, upscaled_rows
from model.inference import Upscaler, transforms

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_pictures_of_every_kind(upscale, folder, coffee):
    picture = Image.fromarray(coffee)
    picture.save(folder / "rgb.png")
    picture.save(folder / "mit Leerzeichen und Umläüten 写真.bmp")
    picture.save(folder / "stripes.tif", compression="tiff_lzw")
    picture.save(folder / "lossless.webp", lossless=True)
    picture.save(folder / "photo.jpg", quality=90)
    cases = {path.stem: coffee for path in folder.iterdir()}
    cases["photo"] = np.asarray(Image.open(folder / "photo.jpg"))
    for name, mode in (("cmyk.tif", "CMYK"), ("palette.png", "P")):
        picture.convert(mode).save(folder / name)
        cases[name[:-4]] = np.asarray(picture.convert(mode).convert("RGB"))
    for name, mode in (("gray.png", "L"), ("bits.png", "1")):
        picture.convert(mode).save(folder / name)
        cases[name[:-4]] = np.asarray(picture.convert(mode).convert("L"))[:, :, None]
    status, out, err = upscale(folder)
    assert status == 0, err
    assert "9 of 9 files" in out
    assert {path.stem for path in upscale.out.iterdir()} == set(cases)
    for name, pixels in cases.items():
        result = read_image(upscale.out / f"{name}.png")
        assert np.array_equal(result, imresize(pixels, 2)), name


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen(upscale, folder, coffee, network, channels, ending):
    wide = np.dstack([coffee, coffee[:, :, :1]]).astype(np.uint16)[:, :, :channels] * 257
    wide += np.arange(50, dtype=np.uint16)[:, None]
    write_image(folder / f"wide{ending}", wide)
    result, _ = upscale.one(folder / f"wide{ending}", network=upscale.edsr)
    assert result.dtype == np.uint16
    assert result.shape == (122, 100, channels)
    colors = np.repeat(wide, 3, axis=2) if channels == 1 else wide[:, :, :3]
    with torch.inference_mode():
        lr = torch.from_numpy(colors.astype(np.float32) / 257).permute(2, 0, 1)[None]
        want = network(lr)[0].clamp(0, 255).permute(1, 2, 0).numpy() * 257
    want = want @ [[0.299], [0.587], [0.114]] if channels == 1 else want
    assert np.abs(result[:, :, :3].astype(float) - want).max() <= 1
    assert len(np.unique(result % 257)) > 200, "only 8 bits are left"


def test_orientation_is_applied_once(upscale, folder, coffee):
    picture = Image.fromarray(coffee)
    for orientation in (3, 6):
        exif = picture.getexif()
        exif[0x112] = orientation
        picture.save(folder / f"{orientation}.png", exif=exif)
    for orientation, turned in ((3, coffee[::-1, ::-1]), (6, coffee.swapaxes(0, 1)[:, ::-1])):
        result, _ = upscale.one(folder / f"{orientation}.png")
        assert np.array_equal(result, imresize(turned, 2))
        with Image.open(upscale.out / f"{orientation}.png") as file:
            assert 0x112 not in file.getexif()


def test_profiles_are_carried_over(upscale, folder, coffee):
    Image.fromarray(coffee).save(folder / "jpeg.jpg", icc_profile=PROFILE)
    Image.fromarray(coffee).save(folder / "png.png", icc_profile=PROFILE)
    write_image(folder / "wide.png", coffee.astype(np.uint16) * 257, icc_profile=PROFILE)
    write_image(folder / "tiff.tif", coffee.astype(np.uint16) * 257, icc_profile=PROFILE)
    for path in sorted(folder.iterdir()):
        assert upscale.one(path)[1]["icc_profile"] == PROFILE, path
    Image.fromarray(coffee[:, :, 0]).save(folder / "gray.png", icc_profile=PROFILE)
    assert upscale(folder / "gray.png", out=upscale.out / "gray.webp")[0] == 0
    assert not read_image_with_metadata(upscale.out / "gray.webp")[1]["icc_profile"]
    assert upscale(folder / "png.png", out=upscale.out / "as.tif")[0] == 0
    assert read_image_with_metadata(upscale.out / "as.tif")[1]["icc_profile"] == PROFILE


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", ["camera.jpg", "camera.png", "camera.tif"])
def test_exif_and_dpi_are_carried_over(upscale, folder, coffee, source, ending):
    exif = Image.Exif()
    exif.update({0x10F: "Camera", 0x112: 6, 0x9003: "2024:05:01 10:00:00"})
    exif[0x13B] = "J\u00fcrgen".encode()
    exif[0x8769] = {0x9003: "2024:05:01 10:00:00", 0xA002: 61, 0x927C: b"maker note"}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    Image.fromarray(coffee).save(folder / source, exif=exif.tobytes(), dpi=(300, 150))
    out = upscale.out / f"big{ending}"
    assert upscale(folder / source, out=out)[0] == 0
    with Image.open(out) as file:
        assert file.size == (2 * coffee.shape[0], 2 * coffee.shape[1])
        if ending != ".webp":
            assert file.info["dpi"] == pytest.approx((300, 150), abs=0.1)
        found = file.getexif()
        assert (found[0x10F], found.get(0x112)) == ("Camera", None)
        if source != "camera.tif":  # where Pillow has written question marks
            assert found[0x13B].encode("latin-1").decode() == "J\u00fcrgen"
        if ending != ".tif":
            assert found[0x9003] == "2024:05:01 10:00:00"
            assert dict(found.get_ifd(0x8769)) == {0x9003: "2024:05:01 10:00:00"}
            assert found.get_ifd(0x8825)[2] == (48, 8, 0)


def test_luma_networks_keep_the_colors(upscale, folder, coffee):
    wide = coffee.astype(np.uint16) * 257
    for name, pixels in {"rgb": coffee, "gray": coffee[:, :, :1], "wide": wide}.items():
        write_image(folder / f"{name}.png", pixels)
        result, _ = upscale.one(folder / f"{name}.png", "--n_colors", 1)
        step = 1 if pixels.dtype == np.uint8 else 257
        assert result.shape[2] == pixels.shape[2]
        assert np.abs(result.astype(int) - imresize(pixels, 2)).max() <= 2 * step, name

    class Brighter(torch.nn.Module):
        def forward(self, luma):  # by a tenth of the 219 steps from black to white
            return luma.repeat(1, 1, 2, 2) + 21.9

    config = UpscaleConfig(Upscaler(Brighter()), 2, 1, 255, torch.device("cpu"))
    flat = np.full((20, 20, 3), (100, 80, 60), np.uint8)
    assert np.abs(upscale_pixels(flat, config, print) - (125.5, 105.5, 85.5)).max() <= 1


def cut_out(kind=np.uint8):
    """A green disc with an antialiased outline, magenta where it is transparent; (H, W, 4)."""
    y, x = np.mgrid[:56, :60]
    alpha = np.clip((22.3 - np.hypot(y - 27.7, x - 29.1)) * 255, 0, 255).astype(np.uint8)
    image = np.empty((56, 60, 4), np.uint8)
    image[:] = (40, 170, 60, 0)
    image[alpha == 0] = (255, 0, 255, 0)
    image[:, :, 3] = alpha
    return image.astype(kind) * (257 if kind == np.uint16 else 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_edges_of_alpha_are_clean(upscale, folder, kind):
    image, peak = cut_out(kind), np.iinfo(kind).max
    write_image(folder / "disc.png", image)
    tiles = "--chop_size", 50, "--chop_overlap", 24
    result, _ = upscale.one(folder / "disc.png", *tiles, network=upscale.edsr)
    alpha = result[:, :, 3]
    green = upscaled_flat(upscale, folder, image[28, 29, :3])
    error = np.abs(result[:, :, :3] - green)[alpha > 0].max()
    assert error <= peak / 255, "hidden magenta bleeds into the outline"
    inner = np.repeat(np.repeat(image[:, :, 3], 2, 0), 2, 1)
    y, x = np.mgrid[:112, :120]
    distance = np.hypot((y - 0.5) / 2 - 27.7, (x - 0.5) / 2 - 29.1)
    assert (alpha[distance > 24.5] == 0).all()
    assert (alpha[distance < 19] == peak).all()
    assert np.abs(alpha.astype(float) - inner)[distance < 24].mean() < 0.05 * peak


def upscaled_flat(upscale, folder, color):
    """Return what the network makes of one color, tiled to the size of the result."""
    write_image(folder / "flat.png", np.broadcast_to(color, (40, 40, 3)).copy())
    flat = upscale.one(folder / "flat.png", network=upscale.edsr)[0][40:42, 40:42]
    return np.tile(flat.astype(float), (56, 60, 1))


def test_gray_with_alpha_palette_and_color_key(upscale, folder):
    disc = cut_out()
    Image.fromarray(disc[:, :, [1, 3]]).save(folder / "la.png")
    hard = np.where(disc[:, :, 3:] > 127, disc, (255, 0, 255, 0)).astype(np.uint8)
    hard = Image.fromarray(hard[:, :, :3])
    hard.save(folder / "key.png", transparency=(255, 0, 255))
    palette = hard.quantize(2)
    hidden = palette.getpixel((0, 0))
    palette.save(folder / "palette.png", transparency=hidden)
    write_image(folder / "wide.png", np.asarray(hard).astype(np.uint16) * 257)
    add_key(folder / "wide.png", (65535, 0, 65535))
    for name, channels in {"la": 2, "key": 4, "palette": 4, "wide": 4}.items():
        result, _ = upscale.one(folder / f"{name}.png")
        assert result.shape == (112, 120, channels), name
        peak = np.iinfo(result.dtype).max
        assert result[0, 0, -1] == 0
        assert result[56, 60, -1] == peak
        if channels == 4:
            visible = result[result[:, :, 3] > 0][:, :3]
            assert (visible // (peak // 255) == (40, 170, 60)).all(), name


def add_key(path, color):
    """Add a tRNS chunk, the color that is transparent, to a PNG of 16 bits."""
    data, body = path.read_bytes(), struct.pack(">HHH", *color)
    chunk = struct.pack(">I", 6) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def test_an_opaque_alpha_stays_opaque(upscale, folder, coffee):
    image = np.dstack([coffee, np.full(coffee.shape[:2], 255, np.uint8)])
    write_image(folder / "opaque.png", image)
    result, _ = upscale.one(folder / "opaque.png", network=upscale.edsr)
    assert (result[:, :, 3] == 255).all()


@pytest.mark.parametrize("ensemble", [(), ("--self_ensemble",)])
def test_tiles_have_no_seams(upscale, folder, photographs, network, ensemble):
    image = photographs["rocket"]  # 98x121
    write_image(folder / "rocket.png", image)
    # radius: head 1, block 2, body 1, tail 2; a quarter of 28 is 7
    tiles = "--chop_size", 60, "--chop_overlap", 28
    result, _ = upscale.one(folder / "rocket.png", *tiles, *ensemble, network=upscale.edsr)
    with torch.inference_mode():
        lr = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        views = list(transforms()) if ensemble else [(lambda x: x, lambda x: x)]
        whole = sum(undo(network(apply(lr))) for apply, undo in views)[0] / len(views)
    whole = whole.permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(result - whole).max() < 0.51, "off by more than the rounding to 8 bits"


def test_rows_come_as_they_are_done_and_progress_ends_at_one(network, photographs):
    failing = iter([False] * 5 + [True] + [False] * 100)

    class Net(torch.nn.Module):
        def forward(self, lr):
            if next(failing):
                raise torch.OutOfMemoryError("too much")
            return network(lr)

    upscaler = Upscaler(Net(), tile=64, overlap=16, log=print)
    config = UpscaleConfig(upscaler, 2, 3, 255, torch.device("cpu"))
    shares, rows = [], []
    with torch.inference_mode():
        for top, bottom, band in upscaled_rows(photographs["rocket"], config, shares.append):
            rows.append((top, bottom))
            assert band.shape == ((bottom - top) * 2, 242, 3)
    assert len(shares) > 8
    assert min(shares) < 0, "work that is done again is counted twice"
    assert sum(shares) == pytest.approx(1)
    again = rows[max(number for number, (top, _) in enumerate(rows) if top == 0) :]
    assert len(again) > 2
    assert again[-1][1] == 98
    assert all(former[1] == later[0] for former, later in itertools.pairwise(again))
