"""The commands beside main.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import draw_pcl_samples
import numpy as np
import pytest

import plot_runs
from data.image import read_image

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_quickstart_runs_and_goes_on(tmp_path):
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    # an environment in which all is installed already
    text = (ROOT / "requirements.txt").read_bytes()
    stamp = subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout.decode()
    (tmp_path / "venv/installed").write_text(stamp)
    folders = {
        "VENV": tmp_path / "venv",
        "DIR_DATA": tmp_path / "data",
        "DIR_EXPERIMENT": tmp_path / "experiment",
    }
    command = ["bash", ROOT / "scripts/quickstart.sh", "--test_every", "1", "--n_threads", "0"]

    def run(epochs):
        import os

        env = {
            **os.environ,
            **{name: str(path) for name, path in folders.items()},
            "PYTHONPATH": ":".join(sys.path),
        }
        return subprocess.run(
            [*command, "--epochs", epochs], env=env, capture_output=True, text=True, check=True
        ).stdout

    first = run("1")
    assert "| EDSR-PCL " in first
    assert "[Epoch 1/1]" in first
    assert (tmp_path / "experiment/quickstart_astronaut.png").stat().st_size > 10_000
    second = run("2")
    assert second.count("Resumed after epoch 1") == 2
    assert "[Epoch 1/" not in second


def test_curves_of_several_runs_and_picture_of_the_samples(sr, tmp_path, data_dir, capsys):
    for name in ("one", "two"):
        sr.train("--save", name, "--epochs", 2, "--template", "PCL", "--mcl_neg", 1)
    curves = plot_runs.curves(sr.folder("one"))
    assert set(plot_runs.KEYS) <= set(curves)
    assert curves["contrast"][2] == pytest.approx(
        curves["CL-patchD s_neg"][2] - curves["CL-patchD s_pos"][2]
    )
    picture = tmp_path / "curves.png"
    assert (
        plot_runs.main([str(picture), "one", "two", "--dir_experiment", str(sr.experiments)]) == 0
    )
    assert len(np.unique(read_image(picture))) > 20
    assert plot_runs.main([str(picture), "nosuch"]) == 1
    assert "nosuch" in capsys.readouterr().err
    assert (
        draw_pcl_samples.main(
            [str(data_dir / "benchmark/Set5/HR/coffee.png"), str(picture), "--box", "8", "8", "64"]
        )
        == 0
    )
    labels = [
        label for label, _ in draw_pcl_samples.make_samples(np.zeros((64, 64, 3), np.uint8), 4)
    ]
    assert (
        sum("positive" in label for label in labels)
        == sum("negative" in label for label in labels)
        == 3
    )
