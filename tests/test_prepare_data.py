"""Data preparation: what each command of prepare_data.py makes, and what it says."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prepare_data
from data.image import read_image, write_image
from data.resize import downsample
from file_server import FileServer
from helpers import SET5, files_in, png, refused, write_set, zip_of

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/prepare_data.py"


def test_div2k_is_laid_out_trained_and_not_fetched_again(prepare, sr, photographs, tmp_path):
    train, valid = photographs["coffee"][:48, :60], photographs["chelsea"][:48, :60]
    hr, lr = png(train), png(downsample(train, 2))
    files = {
        "DIV2K_train_HR.zip": zip_of({f"DIV2K_train_HR/{i:04d}.png": hr for i in range(1, 801)}),
        "DIV2K_valid_HR.zip": zip_of({f"{i:04d}.png": png(valid) for i in range(801, 901)}),
        "DIV2K_train_LR_bicubic_X2.zip": zip_of({f"X2/{i:04d}x2.png": lr for i in range(1, 801)}),
    }
    root = tmp_path / "data"
    with FileServer(files) as server:
        command = ["div2k", "--scale", "2", "--dir_data", root, "--url", server.url.rstrip("/")]
        status, out, err = prepare(*command)
        assert status == 0, err
        assert "DIV2K: 900 images" in out
        assert "DIV2K_valid_LR_bicubic_X2.zip: the server has none" in out
        assert "X2 of 100 images" in out, "LR images that were fetched are not made again"
        before = len(server.requests)
        assert prepare(*command)[0] == 0
        assert len(server.requests) == before, "fetched again"
    assert files_in(root) == sorted(
        f"DIV2K/DIV2K_train_{place}.png"
        for i in range(1, 901)
        for place in (f"HR/{i:04d}", f"LR_bicubic/X2/{i:04d}x2")
    )
    assert np.array_equal(
        read_image(root / "DIV2K/DIV2K_train_LR_bicubic/X2/0801x2.png"), downsample(valid, 2)
    )
    flags = "--data_test DIV2K --ext img --patch_size 32 --test_every 1 --epochs 1 --save_results --save_gt --data_range"
    status, out, err = sr.train(*flags.split(), "1-4/801-802", data=root)
    assert status == 0, err
    assert np.array_equal(read_image(sr.folder("test") / "results-DIV2K/0801_x2_HR.png"), valid)


def test_div2k_takes_what_lies_beside_and_names_what_is_missing(prepare, photographs, tmp_path):
    beside = tmp_path / "DIV2K/DIV2K_valid_HR"
    write_set(beside, {f"{i:04d}": photographs["coffee"][:20, :20] for i in range(801, 901)})
    archive = zip_of({"DIV2K_train_HR/0001.png": (beside / "0801.png").read_bytes()})
    with FileServer({"DIV2K_train_HR.zip": archive}) as server:
        where = ["--dir_data", tmp_path, "--url", server.url]
        status, out, err = prepare("div2k", "--scale", 8, *where)
    assert status == 1
    assert [name for name, _, _ in server.requests] == ["DIV2K_train_HR.zip"]
    assert "held 1 of the 800 images" in err
    assert "DIV2K: 101 images" in out
    assert "missing: 799 images" in out
    assert (tmp_path / "DIV2K/DIV2K_train_HR/0900.png").is_file()


def test_benchmark_says_what_is_there_and_what_is_missing(
    benchmark, prepare, photographs, server, tmp_path
):
    status, out, _ = benchmark()
    assert status == 0
    assert files_in(tmp_path / "data") == SET5
    assert "Set5: 5 images" in out
    assert "LR images X2" in out
    assert "missing: 100 images" in out
    assert "manga109.org" in out
    assert "missing: 109 images: fetch it by hand" in out
    mangas = {f"m{i:03d}": photographs["rocket"][:20, :20] for i in range(109)}
    where = ["--dir_data", tmp_path / "data", "--url", server.url]
    assert prepare("benchmark", "--sets", "Manga109", *where)[0] == 1
    write_set(tmp_path / "data/benchmark/Manga109/HR", mangas)
    status, out, _ = prepare("benchmark", "--sets", "Manga109+Set5", "--scale", "2+4", *where)
    assert status == 0
    assert len(list((tmp_path / "data/benchmark/Manga109/LR_bicubic/X4").iterdir())) == 109
    assert len(server.requests) == 1


def test_sample_and_lr_alone(prepare, tmp_path):
    status, out, _ = prepare("sample", "--scale", "8", "--dir_data", tmp_path)
    assert status == 0
    assert "sample_train: 11 images" in out
    train, test = (set(files_in(tmp_path / f"sample_{part}/HR")) for part in ("train", "test"))
    assert len(test) == 3
    assert not train & test
    where = [tmp_path / "sample_test/HR", "--lr", tmp_path / "lr"]
    assert prepare("lr", *where, "--scale", "16")[0] == 0
    hr = read_image(tmp_path / "sample_test/HR/coffee.png")
    assert np.array_equal(read_image(tmp_path / "lr/X16/coffeex16.png"), downsample(hr, 16))


def test_a_folder_becomes_a_set(prepare, tmp_path, photographs, sr):
    write_set(tmp_path / "photos", photographs)
    command = ["folder", tmp_path / "photos", "Mine", "--dir_data", tmp_path / "data"]
    argv = [sys.executable, SCRIPT, *command, "--scale", "2+3", "--jobs", "2"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 files written" in done.stdout
    for name, hr in photographs.items():
        for scale in (2, 3):
            lr = read_image(tmp_path / f"data/Mine/LR_bicubic/X{scale}/{name}x{scale}.png")
            assert np.array_equal(lr, downsample(hr, scale))
    flags = "--model Bicubic --test_only --data_test Mine --scale 2+3 --cpu".split()
    status, out, _ = sr(*flags, data=tmp_path / "data")
    assert status == 0
    assert "[Mine x3]" in out


def test_what_is_done_is_skipped_and_what_changed_is_not(prepare, tmp_path, photographs):
    write_set(tmp_path / "photos", photographs)
    command = ["folder", tmp_path / "photos", "Mine", "--dir_data", tmp_path, "--scale", "2"]
    prepare(*command)
    # as another program may leave it
    (tmp_path / "Mine/LR_bicubic/X2/coffeex2.png").write_bytes(b"half a fi")
    # another image, of the same size, older than the LR image
    write_image(tmp_path / "photos/rocket.png", photographs["chelsea"])
    os.utime(tmp_path / "photos/rocket.png", (1, 1))
    status, out, _ = prepare(*command)
    assert status == 0
    assert "3 files written" in out
    assert "3 of them in place of" in out
    lr = read_image(tmp_path / "Mine/LR_bicubic/X2/rocketx2.png")
    assert np.array_equal(lr, downsample(photographs["chelsea"], 2))
    assert np.array_equal(read_image(tmp_path / "Mine/HR/rocket.png"), photographs["chelsea"])
    status, out, _ = prepare(*command)
    assert status == 0
    assert "0 files written" in out


def test_bad_images_are_named_and_the_good_are_done(prepare, tmp_path, photographs):
    write_set(tmp_path / "photos", photographs | {"tiny": photographs["coffee"][:1, :1]})
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG")
    command = ["folder", tmp_path / "photos", "Mine", "--dir_data", tmp_path, "--scale", "2"]
    refused(prepare(*command), "broken.png", "tiny.png")
    assert len(list((tmp_path / "Mine/LR_bicubic/X2").iterdir())) == 4
    assert prepare("folder", tmp_path / "none", "Other", "--dir_data", tmp_path)[0] == 1
    assert not (tmp_path / "Other").exists()
    for bad in (
        ["folder", "x", "../out"],
        ["div2k", "--scale", "0"],
        ["benchmark", "--sets", "Set6"],
        ["sample", "--scale", "2+2"],
        ["sample", "--jobs", "0"],
        ["benchmark", "--sha256", "benchmrk.tar=" + "0" * 64],
    ):
        with pytest.raises(SystemExit):
            prepare_data.main(bad)
