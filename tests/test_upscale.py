"""Upscaling pictures without ground truth: where the outputs go, what goes wrong, and the script."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import demo
from data.image import read_image
from data.resize import imresize
from helpers import state_of

ROOT = Path(__file__).resolve().parent.parent


def test_same_name_and_other_ending_both_come_out(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "a.jpg", 255 - coffee, quality=95)
    iio.imwrite(folder / "b.png", coffee)
    assert upscale(folder)[0] == 0
    names = sorted(path.name for path in upscale.out.iterdir())
    assert names == ["a.jpg.png", "a.png.png", "b.png"]
    negative, picture = (read_image(upscale.out / name).astype(int) for name in names[:2])
    assert np.abs(negative + picture - 255).mean() < 10


def test_nothing_is_overwritten_unasked(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "b.png", coffee)
    upscale.out.mkdir()
    (upscale.out / "a.png").write_text("precious")
    status, out, _ = upscale(folder)
    assert status == 0
    assert "1 skipped" in out
    assert str(upscale.out / "a.png") in out
    assert "--overwrite" in out
    assert (upscale.out / "a.png").read_text() == "precious"
    assert (upscale.out / "b.png").is_file(), "the other is done"
    status, out, _ = upscale(folder, "--overwrite")
    assert status == 0
    assert "(replaced)" in out
    assert read_image(upscale.out / "a.png").shape == (122, 100, 3)
    before = (folder / "a.png").read_bytes()
    status, _, err = upscale(folder, "--overwrite", out=folder)
    assert status == 1
    assert "is also an input" in err
    assert (folder / "a.png").read_bytes() == before


def test_one_file_to_one_file(upscale, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    for name in ("big.png", "big.tif"):
        assert upscale(folder / "a.png", out=upscale.out / name)[0] == 0
        assert np.array_equal(read_image(upscale.out / name), imresize(coffee, 2))
    for name, word in (("big.bmp", ".png, .tif, .tiff"), ("clip.mp4", ".png")):
        status, _, err = upscale(folder / "a.png", out=upscale.out / name)
        assert status == 1
        assert word in err
        assert not (upscale.out / name).exists()
    iio.imwrite(folder / "b.png", coffee)
    status, _, err = upscale(folder, out=upscale.out / "other.png")
    assert status == 1
    assert "must be a folder" in err
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
        assert "PSNR: n/a" in out
    assert not (sr.folder("test") / "metrics.jsonl").exists()
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
    flags = "--model Bicubic --scale 2 --data_test MyImage --testset Mine --save_results".split()
    assert sr(*flags, "--testpath", tmp_path / "LR", "--test_only", "--cpu")[0] == 0
    assert (sr.folder("test") / "results-MyImage/a_x2_SR.png").is_file()


# names that are not UTF-8 (Linux), and of nearly 255 bytes
NAMES = [os.fsdecode(b"caf\xe9"), "a" * 230, "写" * 83, "é" * 124]
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode here")


@needs_bytes
def test_any_name_is_upscaled(upscale, folder, coffee):
    for name in NAMES:
        iio.imwrite(folder / f"{name}.png", coffee)
    out = upscale.out / NAMES[0]
    status, text, err = upscale(folder, "--suffix", "_large", out=out)
    assert status == 0, err
    names = [path.name for path in out.iterdir()]
    assert len(names) == 4
    assert all(name.endswith("_large.png") for name in names)
    assert f"{NAMES[1]}_large.png" in names
    assert "caf\\udce9.png" in text


@needs_bytes
def test_any_name_is_trained_on_and_tested(sr, tmp_path, photographs):
    data, save = tmp_path / NAMES[0], NAMES[0]
    for set_name in ("Odd", NAMES[0]):
        (data / set_name / "HR").mkdir(parents=True)
        for name in NAMES:
            iio.imwrite(data / set_name / f"HR/{name}.png", photographs["coffee"])
    flags = "--data_train Odd --save_results --save_gt --epochs 1 --tensorboard".split()
    status, _, err = sr.train(*flags, "--data_test", NAMES[0], "--save", save, data=data)
    assert status == 0, err
    assert len(list((sr.folder(save) / f"results-{NAMES[0]}").iterdir())) == 12
    assert sr("--load", save, "--epochs", 2, "--cpu", data=data)[0] == 0
    weights = sr.folder(save) / "model/model_latest.pt"
    test = ("--test_only", "--pre_train", weights, "--data_test", "Odd", "--cpu", "--save", "t")
    assert sr(*test, data=data)[0] == 0


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
    missing = folder / "none.png"
    for source, word in ((missing, "none.png"), (folder, "cannot find pictures or videos")):
        status, _, err = upscale(source)
        assert status == 1
        assert word in err
    iio.imwrite(folder / "a.png", coffee)
    status, _, err = upscale(folder, network=("--scale", 2))
    assert status == 1
    assert "give --pre_train FILE" in err
    assert not upscale.out.exists()


def test_a_full_disk_leaves_no_half_file(upscale, folder, coffee, monkeypatch):
    iio.imwrite(folder / "a.png", coffee)
    iio.imwrite(folder / "b.png", coffee)
    write = demo.write_image

    def full(path, *more, **metadata):
        if path.name == "a.png":
            raise OSError(28, "No space left on device")
        write(path, *more, **metadata)

    monkeypatch.setattr(demo, "write_image", full)
    status, _, err = upscale(folder)
    assert status == 1
    assert "a.png" in err
    assert "No space left" in err
    assert [path.name for path in upscale.out.iterdir()] == ["b.png"]


def test_pictures_are_upscaled_while_training(sr, folder, coffee):
    iio.imwrite(folder / "a.png", coffee)
    (folder / "broken.png").write_text("no")
    flags = "--data_test Demo+Set5 --save_results --epochs 1 --save run --dir_demo".split()
    status, out, _ = sr.train(*flags, folder)
    assert status == 0
    assert "failed: " in out
    assert (sr.folder("run") / "results-Demo/a_x2_SR.png").is_file()
    assert state_of(sr.folder("run"))["epoch"] == 1


def script(*argv, **env):
    command = ["bash", str(ROOT / "scripts/upscale.sh"), *map(str, argv)]
    env = {**os.environ, "PYTHON": sys.executable, **env}
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_script(upscale, folder, coffee, sr):
    iio.imwrite(folder / "ein Bild.png", coffee)
    flags = ("--dir_experiment", sr.experiments, "--cpu", *upscale.edsr)
    run = script(folder / "ein Bild.png", upscale.out, *flags)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "\r" not in run.stdout
    assert read_image(upscale.out / "ein Bild.png").shape == (122, 100, 3)
    assert (sr.experiments / "upscale/log.txt").is_file()
    assert {script(*argv).returncode for argv in ((), ("", "x"), ("x", ""))} == {2}
    help_text = script("--help")
    assert help_text.returncode == 0
    assert "IN OUT" in help_text.stdout
    assert "--save" not in script("a", "b", "--load", "run", PYTHON="echo").stdout


@pytest.mark.parametrize("flags", ["--scale 2", "--scale=2 --cpu", "--cpu --scale 2"])
def test_the_script_has_weights_of_its_own(flags):
    run = script("a", "b", *flags.split(), PYTHON="echo")
    assert f"--pre_train {ROOT}/experiment/model/EDSR_baseline_x2.pt\n" in run.stdout
    for weights in ("--pre_train mine.pt", "--load run", "--model Bicubic"):
        run = script("a", "b", *flags.split(), *weights.split(), PYTHON="echo")
        assert "experiment/model" not in run.stdout


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--real", "EDSR_baseline_x4_real.pt"),
        ("--fast", "EDSR_tiny_x2.pt"),
        ("--cpu --scale 3 --real", "EDSR_baseline_x3_real.pt"),
        ("--scale 8", "error: --scale 8 has no weights in experiment/model"),
        ("--fast --scale 8", "error: --fast --scale 8 has no weights in experiment/model"),
        ("--real --fast", "error: --fast chooses the weights: remove --real"),
        ("--pre_train=w.pt --real", "error: --real chooses the weights: remove --pre_train"),
        ("--fast --load run", "error: --fast chooses the weights: remove --load"),
    ],
)
def test_the_script_chooses_shipped_weights(flags, found):
    run = script("a", "b", *flags.split(), PYTHON="echo")
    if run.returncode == 0:
        assert f"/experiment/model/{found}" in run.stdout
    else:
        assert (run.returncode, run.stdout) == (2, "")
        assert found in run.stderr
