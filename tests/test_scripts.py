"""The commands beside main.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import draw_samples
import numpy as np
import plot_runs
import pytest
import sample_data
from helpers import write_set

import make_lr
from data.image import read_image, write_image
from data.resize import downsample

ROOT = Path(__file__).resolve().parent.parent


def test_a_folder_becomes_a_set(tmp_path, photographs, sr, capsys):
    write_set(tmp_path / "photos", photographs)
    command = [str(tmp_path / "photos"), "--set", str(tmp_path / "data/Mine"), "--scale", "2+3", "--jobs", "2"]
    assert make_lr.main(command) == 0
    assert "12 files written" in capsys.readouterr().out
    for name, hr in photographs.items():
        for scale in (2, 3):
            lr = read_image(tmp_path / f"data/Mine/LR_bicubic/X{scale}/{name}x{scale}.png")
            assert np.array_equal(lr, downsample(hr, scale))
    status, out, _ = sr(*"--model Bicubic --test_only --data_test Mine --scale 2+3 --cpu".split(), data=tmp_path / "data")
    assert status == 0
    assert "[Mine x3]" in out


def test_what_is_done_is_skipped_and_what_changed_is_not(tmp_path, photographs, capsys):
    write_set(tmp_path / "photos", photographs)
    command = [str(tmp_path / "photos"), "--set", str(tmp_path / "set"), "--scale", "2", "--jobs", "1"]
    make_lr.main(command)
    (tmp_path / "set/LR_bicubic/X2/coffeex2.png").write_bytes(b"half a fi")  # as another program may leave it
    write_image(tmp_path / "photos/rocket.png", photographs["chelsea"])
    capsys.readouterr()
    assert make_lr.main(command) == 0
    assert "3 files written" in capsys.readouterr().out
    assert np.array_equal(read_image(tmp_path / "set/LR_bicubic/X2/rocketx2.png"), downsample(photographs["chelsea"], 2))
    assert make_lr.main(command) == 0
    assert "0 files written" in capsys.readouterr().out


def test_bad_images_are_named_and_the_good_are_done(tmp_path, photographs, capsys):
    write_set(tmp_path / "photos", photographs | {"tiny": photographs["coffee"][:1, :1]})
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG")
    assert make_lr.main([str(tmp_path / "photos"), "--set", str(tmp_path / "set"), "--scale", "2", "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert "broken.png" in err
    assert "tiny.png" in err
    assert len(list((tmp_path / "set/LR_bicubic/X2").iterdir())) == 4
    assert make_lr.main([str(tmp_path / "none"), "--set", str(tmp_path / "set2"), "--scale", "2"]) == 1
    assert not (tmp_path / "set2").exists()


def test_the_sample_sets_are_disjoint():
    assert not set(sample_data.TRAIN) & set(sample_data.TEST)
    for name in sample_data.TRAIN + sample_data.TEST:
        assert sample_data.photograph(name).dtype == np.uint8


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_quickstart_runs_and_goes_on(tmp_path):
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    # an environment in which all is installed already
    text = (ROOT / "requirements.txt").read_bytes()
    stamp = subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout.decode()
    (tmp_path / "venv/installed").write_text(stamp)
    folders = {"VENV": tmp_path / "venv", "DIR_DATA": tmp_path / "data", "DIR_EXPERIMENT": tmp_path / "experiment"}
    command = ["bash", ROOT / "scripts/quickstart.sh", "--test_every", "1", "--n_threads", "0"]

    def run(epochs):
        import os

        env = {**os.environ, **{name: str(path) for name, path in folders.items()}, "PYTHONPATH": ":".join(sys.path)}
        return subprocess.run([*command, "--epochs", epochs], env=env, capture_output=True, text=True, check=True).stdout

    first = run("1")
    assert "| EDSR-PCL " in first
    assert "[Epoch 1/1]" in first
    assert (tmp_path / "experiment/quickstart_astronaut.png").stat().st_size > 10_000
    second = run("2")
    assert second.count("Going on after epoch 1") == 2
    assert "[Epoch 1/" not in second


def test_curves_of_several_runs_and_picture_of_the_samples(sr, tmp_path, data_dir, capsys):
    for name in ("one", "two"):
        sr.train("--save", name, "--epochs", 2, "--template", "PCL", "--mcl_neg", 1)
    curves = plot_runs.curves(sr.folder("one"))
    assert set(plot_runs.KEYS) <= set(curves)
    assert curves["contrast"][2] == pytest.approx(curves["CL-patchD s_neg"][2] - curves["CL-patchD s_pos"][2])
    picture = tmp_path / "curves.png"
    assert plot_runs.main([str(picture), "one", "two", "--dir_experiment", str(sr.experiments)]) == 0
    assert len(np.unique(read_image(picture))) > 20
    assert plot_runs.main([str(picture), "nosuch"]) == 1
    assert "nosuch" in capsys.readouterr().err
    assert draw_samples.main([str(data_dir / "benchmark/Set5/HR/coffee.png"), str(picture), "--box", "8", "8", "64"]) == 0
    labels = [label for label, _ in draw_samples.make_samples(np.zeros((64, 64, 3), np.uint8), 4)]
    assert sum("positive" in label for label in labels) == sum("negative" in label for label in labels) == 3
