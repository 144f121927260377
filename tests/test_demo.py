"""Upscaling pictures without ground truth: every kind of file, outputs, tiles, and what goes wrong."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from helpers import state_of
from PIL import Image, ImageCms

import demo
from data.image import read_image, read_picture, write_image
from data.resize import imresize
from data.wide import write_wide_png
from model.edsr import EDSR
from model.inference import OutOfMemoryError, Upscaler

ROOT = Path(__file__).resolve().parent.parent
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def network():
    """A small EDSR x2 that does no more than learn to keep its input: close to nearest-neighbour upsampling."""
    torch.manual_seed(0)
    net = EDSR(scale=2, n_resblocks=1, n_feats=8)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(60):
        lr = torch.rand(4, 3, 12, 12) * 255
        loss = (net(lr) - lr.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def upscale(sr, tmp_path, network):
    """upscale(source, *flags) runs the program on a file or folder; the outputs are in upscale.out."""

    class Upscale:
        out, weights = tmp_path / "out", tmp_path / "weights.pt"
        bicubic = ("--model", "Bicubic", "--scale", 2)
        edsr = ("--n_resblocks", 1, "--n_feats", 8, "--scale", 2, "--pre_train", weights)

        def __call__(self, source, *flags, network=bicubic, out=out):
            where = ["--dir_out", out] if out else []
            return sr(*network, "--data_test", "Demo", "--dir_demo", source, "--test_only", "--cpu", *where, *flags)

        def one(self, source, *flags, **more):
            status, out, err = self(source, *flags, **more)
            assert status == 0, out + err
            return read_picture(self.out / f"{source.stem}.png")

    torch.save(network.state_dict(), Upscale.weights)
    return Upscale()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def coffee(photographs):
    return np.ascontiguousarray(photographs["coffee"][:61, :50])


# ------------------------------------------------------------ kinds of files


def test_pictures_of_every_kind(upscale, folder, coffee):
    picture = Image.fromarray(coffee)
    cmyk, palette, grey, bits = (picture.convert(mode) for mode in ("CMYK", "P", "L", "1"))
    picture.save(folder / "rgb.png")
    picture.save(folder / "mit Leerzeichen und Umläüten 写真.bmp")
    picture.save(folder / "stripes.tif", compression="tiff_lzw")
    picture.save(folder / "lossless.webp", lossless=True)
    picture.save(folder / "photo.jpg", quality=90)
    cmyk.save(folder / "cmyk.tif")
    palette.save(folder / "palette.png")
    grey.save(folder / "grey.png")
    bits.save(folder / "bits.png")
    photo = np.asarray(Image.open(folder / "photo.jpg"))
    cases = {path.stem: coffee for path in folder.iterdir()}
    cases |= {"photo": photo, "cmyk": np.asarray(cmyk.convert("RGB")), "palette": np.asarray(palette.convert("RGB"))}
    cases |= {"grey": np.asarray(grey)[:, :, None], "bits": np.asarray(bits.convert("L"))[:, :, None]}
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
    wide = np.dstack([coffee, coffee[:, :, :1]]).astype(np.uint16) * 257 + np.arange(50, dtype=np.uint16)[:, None]
    wide = wide[:, :, :channels]
    write_image(folder / f"wide{ending}", wide)
    result, _ = upscale.one(folder / f"wide{ending}", network=upscale.edsr)
    assert result.dtype == np.uint16
    assert result.shape == (122, 100, channels)
    colours = np.repeat(wide, 3, axis=2) if channels == 1 else wide[:, :, :3]
    with torch.inference_mode():
        lr = torch.from_numpy(colours.astype(np.float32) / 257).permute(2, 0, 1)[None]
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
    write_wide_png(folder / "wide.png", coffee.astype(np.uint16) * 257, PROFILE)
    write_image(folder / "tiff.tif", coffee.astype(np.uint16) * 257, PROFILE)
    for path in sorted(folder.iterdir()):
        assert upscale.one(path)[1] == PROFILE, path
    assert upscale(folder / "png.png", out=upscale.out / "as.tif")[0] == 0
    assert read_picture(upscale.out / "as.tif")[1] == PROFILE


def test_luma_networks_keep_the_colours(upscale, folder, coffee):
    wide = coffee.astype(np.uint16) * 257
    for name, pixels in {"rgb": coffee, "grey": coffee[:, :, :1], "wide": wide}.items():
        write_image(folder / f"{name}.png", pixels)
        result, _ = upscale.one(folder / f"{name}.png", "--n_colors", 1)
        step = 1 if pixels.dtype == np.uint8 else 257
        assert result.shape[2] == pixels.shape[2]
        assert np.abs(result.astype(int) - imresize(pixels, 2)).max() <= 2 * step, name


# ------------------------------------------------------------------- alpha


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
    image = cut_out(kind)
    peak = np.iinfo(kind).max
    write_image(folder / "disc.png", image)
    result, _ = upscale.one(folder / "disc.png", "--chop_size", 50, "--chop_overlap", 24, network=upscale.edsr)
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


def upscaled_flat(upscale, folder, colour):
    """What the network makes of one colour, in the size of the result: each of the 2x2 pixels of an LR pixel by itself."""
    write_image(folder / "flat.png", np.broadcast_to(colour, (40, 40, 3)).copy())
    flat = upscale.one(folder / "flat.png", network=upscale.edsr)[0][40:42, 40:42]
    return np.tile(flat.astype(float), (56, 60, 1))


def test_grey_with_alpha_palette_and_colour_key(upscale, folder):
    disc = cut_out()
    Image.fromarray(disc[:, :, [1, 3]]).save(folder / "la.png")
    hard = Image.fromarray(np.where(disc[:, :, 3:] > 127, disc, (255, 0, 255, 0)).astype(np.uint8)[:, :, :3])
    hard.save(folder / "key.png", transparency=(255, 0, 255))
    palette = hard.quantize(2)
    hidden = palette.getpixel((0, 0))
    palette.save(folder / "palette.png", transparency=hidden)
    write_wide_png(folder / "wide.png", np.asarray(hard).astype(np.uint16) * 257)
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


def add_key(path, colour):
    """Add a tRNS chunk, the colour that is transparent, to a PNG of 16 bits."""
    import struct
    import zlib

    data, body = path.read_bytes(), struct.pack(">HHH", *colour)
    chunk = struct.pack(">I", 6) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def test_an_opaque_alpha_stays_opaque(upscale, folder, coffee):
    image = np.dstack([coffee, np.full(coffee.shape[:2], 255, np.uint8)])
    write_image(folder / "opaque.png", image)
    result, _ = upscale.one(folder / "opaque.png", network=upscale.edsr)
    assert (result[:, :, 3] == 255).all()


# ------------------------------------------------------------------- tiles


@pytest.mark.parametrize("ensemble", [(), ("--self_ensemble",)])
def test_tiles_have_no_seams(upscale, folder, photographs, network, ensemble):
    image = photographs["rocket"]  # 98x121
    write_image(folder / "rocket.png", image)
    # radius: head 1, block 2, body 1, tail 2; a quarter of 28 is 7
    result, _ = upscale.one(folder / "rocket.png", "--chop_size", 60, "--chop_overlap", 28, *ensemble, network=upscale.edsr)
    with torch.inference_mode():
        lr = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        whole = Upscaler(network, self_ensemble=bool(ensemble))(lr, 2)[0].permute(1, 2, 0).numpy()
    assert np.abs(result - np.clip(whole, 0, 255)).max() < 0.51, "off by more than the rounding to 8 bits"


def test_rows_come_as_they_are_done_and_progress_ends_at_one(network, photographs):
    failing = iter([False] * 5 + [True] + [False] * 100)

    class Net(torch.nn.Module):
        def forward(self, lr):
            if next(failing):
                raise OutOfMemoryError("too much")
            return network(lr)

    engine = demo.Engine(Upscaler(Net(), tile=64, overlap=16, log=print), 2, 3, 255, torch.device("cpu"))
    shares, rows = [], []
    with torch.inference_mode():
        for top, bottom, band in demo.upscaled_rows(photographs["rocket"], engine, shares.append):
            rows.append((top, bottom))
            assert band.shape == ((bottom - top) * 2, 242, 3)
    assert len(shares) > 8
    assert min(shares) < 0, "work that is done again is counted twice"
    assert sum(shares) == pytest.approx(1)
    again = rows[max(number for number, (top, _) in enumerate(rows) if top == 0) :]
    assert len(again) > 2
    assert again[-1][1] == 98
    assert all(former[1] == later[0] for former, later in itertools.pairwise(again))


# ----------------------------------------------------------------- outputs


def test_same_name_and_other_ending_both_come_out(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "a.jpg", 255 - coffee, quality=95)
    iio.imwrite(folder / "b.png", coffee)
    assert upscale(folder)[0] == 0
    assert sorted(path.name for path in upscale.out.iterdir()) == ["a.jpg.png", "a.png.png", "b.png"]
    difference = read_image(upscale.out / "a.jpg.png").astype(int) + read_image(upscale.out / "a.png.png") - 255
    assert np.abs(difference).mean() < 10


def test_nothing_is_overwritten_unasked(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "b.png", coffee)
    upscale.out.mkdir()
    (upscale.out / "a.png").write_text("precious")
    status, _, err = upscale(folder)
    assert status == 1
    assert "1 files were not upscaled" in err
    assert str(upscale.out / "a.png") in err
    assert "--overwrite" in err
    assert (upscale.out / "a.png").read_text() == "precious"
    assert (upscale.out / "b.png").is_file(), "the other is done"
    status, out, _ = upscale(folder, "--overwrite")
    assert status == 0
    assert "(replaced)" in out
    assert read_image(upscale.out / "a.png").shape == (122, 100, 3)
    before = (folder / "a.png").read_bytes()
    status, _, err = upscale(folder, "--overwrite", out=folder)
    assert status == 1
    assert "is an input" in err
    assert (folder / "a.png").read_bytes() == before


def test_one_file_to_one_file(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    for name in ("big.png", "big.tif"):
        assert upscale(folder / "a.png", out=upscale.out / name)[0] == 0
        assert np.array_equal(read_image(upscale.out / name), imresize(coffee, 2))
    for source, name, word in (("a.png", "big.jpg", ".png, .tif, .tiff"), ("a.png", "clip.mp4", ".png")):
        status, _, err = upscale(folder / source, out=upscale.out / name)
        assert status == 1
        assert word in err
        assert not (upscale.out / name).exists()
    iio.imwrite(folder / "b.png", coffee)
    status, _, err = upscale(folder, out=upscale.out / "other.png")
    assert status == 1
    assert "give a folder" in err
    (upscale.out / "folder.png").mkdir()
    assert upscale(folder, out=upscale.out / "folder.png")[0] == 0
    assert (upscale.out / "folder.png/b.png").is_file()


def test_results_of_the_experiment(upscale, folder, coffee, sr):
    iio.imwrite(folder / "a.png", coffee)
    results = sr.folder("test") / "results-Demo"
    for times in range(2):
        status, out, _ = upscale(folder, "--save_results", "--save_gt", out=None)
        assert status == 0
        assert ("(replaced)" in out) == bool(times)
    assert np.array_equal(read_image(results / "a_x2_SR.png"), imresize(coffee, 2))
    assert np.array_equal(read_image(results / "a_x2_LR.png"), coffee)
    status, out, _ = upscale(folder, out=None)
    assert status == 0
    assert "nothing is written" in out
    two = ("--model", "Bicubic", "--scale", "2+3")
    assert upscale(folder, network=two)[0] == 0
    assert {path.name for path in upscale.out.iterdir()} == {"a_x2.png", "a_x3.png"}


def test_my_image(sr, tmp_path, coffee):
    (tmp_path / "LR/Mine/x2").mkdir(parents=True)
    iio.imwrite(tmp_path / "LR/Mine/x2/a.png", coffee)
    where = ("--testpath", tmp_path / "LR", "--testset", "Mine", "--save_results", "--test_only", "--cpu")
    assert sr("--model", "Bicubic", "--scale", 2, "--data_test", "MyImage", *where)[0] == 0
    assert (sr.folder("test") / "results-MyImage/a_x2_SR.png").is_file()


# --------------------------------------------------------- what goes wrong


def test_broken_files_are_named_and_the_others_done(upscale, folder, coffee):
    iio.imwrite(folder / "good.png", coffee)
    iio.imwrite(folder / "last.jpg", coffee)
    (folder / "cut.jpg").write_bytes((folder / "last.jpg").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.png").write_text("Dear")
    (folder / "notes.txt").write_text("no picture")
    (folder / "more").mkdir()
    (folder / ".hidden").write_text("")
    status, out, err = upscale(folder)
    assert status == 1
    assert "3 files were not upscaled" in err
    for name in ("cut.jpg", "empty.png", "letter.png"):
        assert f"{folder / name}: cannot be read" in err
    skipped = out[out.index("skipped") :].split("good.png")[0]
    assert "notes.txt" in skipped
    assert "more/" in skipped
    assert ".hidden" not in out
    assert sorted(path.name for path in upscale.out.iterdir()) == ["good.png", "last.png"]
    assert "2 of 5 files" in out


def test_nothing_to_upscale(upscale, folder, coffee):
    for source, word in ((folder / "none.png", "none.png"), (folder, "no pictures or videos")):
        status, _, err = upscale(source)
        assert status == 1
        assert word in err
    iio.imwrite(folder / "a.png", coffee)
    status, _, err = upscale(folder, network=("--scale", 2))
    assert status == 1
    assert "needs weights" in err
    assert not upscale.out.exists()


def test_a_full_disk_leaves_no_half_file(upscale, folder, coffee, monkeypatch):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "b.png", coffee)
    write = demo.write_image

    def full(path, *more):
        if path.name == "a.png":
            raise OSError(28, "No space left on device")
        write(path, *more)

    monkeypatch.setattr(demo, "write_image", full)
    status, _, err = upscale(folder)
    assert status == 1
    assert "a.png" in err
    assert "No space left" in err
    assert [path.name for path in upscale.out.iterdir()] == ["b.png"]


def test_flags_of_another_use(sr):
    for flags in ("--dir_out x", "--dir_out x --data_test Demo", "--dir_out x --test_only --data_test Demo+Set5"):
        status, _, err = sr.train(*flags.split())
        assert status == 2
        assert "--dir_out" in err


def test_pictures_are_upscaled_while_training(sr, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    (folder / "broken.png").write_text("no")
    flags = ("--data_test", "Demo+Set5", "--dir_demo", folder, "--save_results", "--epochs", 1, "--save", "run")
    status, out, _ = sr.train(*flags)
    assert status == 0
    assert "failed: " in out
    assert (sr.folder("run") / "results-Demo/a_x2_SR.png").is_file()
    assert state_of(sr.folder("run"))["epoch"] == 1


# ------------------------------------------------------------------ script


def script(*argv, **env):
    command = ["bash", str(ROOT / "scripts/upscale.sh"), *map(str, argv)]
    return subprocess.run(command, env={**os.environ, "PYTHON": sys.executable, **env}, capture_output=True, text=True)


def test_the_script(upscale, folder, coffee, sr):
    iio.imwrite(folder / "ein Bild.png", coffee)
    flags = ("--dir_experiment", sr.experiments, "--cpu", *upscale.edsr)
    run = script(folder / "ein Bild.png", upscale.out, *flags)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "\r" not in run.stdout
    assert read_image(upscale.out / "ein Bild.png").shape == (122, 100, 3)
    assert (sr.experiments / "upscale/log.txt").is_file()
    assert script().returncode == 2
    help_text = script("--help")
    assert help_text.returncode == 0
    assert "IN OUT" in help_text.stdout
    assert "--save" not in script("a", "b", "--load", "run", PYTHON="echo").stdout
