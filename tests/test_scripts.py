"""The commands beside main.py."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import draw_pcl_samples
import numpy as np
import pytest

import plot_runs
from data.image import read_image
from option import parse_args

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
        sr.train("--save", name, "--epochs", 2, "--template", "PCL_InfoNCE", "--mcl_neg", 1)
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


# ------------------------------------------------- scripts per model and scale


def recipe_scripts():
    return [*(ROOT / "scripts/train").glob("*_x?.sh"), *(ROOT / "scripts/test").glob("*.sh")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_every_script_per_model_and_scale_runs_what_its_name_says():
    scripts = recipe_scripts()
    names = {str(path.relative_to(ROOT / "scripts")) for path in scripts}
    for model, scale in itertools.product(("edsr_baseline", "edsr", "rcan", "han", "nlsn"), "2348"):
        for kind in ("train/", "test/", "train/pcl_scratch_", "train/pcl_finetune_"):
            assert f"{kind}{model}_x{scale}.sh" in names
    # PYTHON=echo prints the command in place of running it
    calls = ";".join(f"bash {shlex.quote(str(path))} --n_threads 0" for path in scripts)
    env = {**os.environ, "PYTHON": "echo"}
    out = subprocess.run(["bash", "-c", calls], env=env, capture_output=True, text=True, check=True)
    lines = out.stdout.splitlines()
    assert len(lines) == len(scripts)
    for path, line in zip(scripts, lines, strict=True):
        program, *flags = shlex.split(line)
        assert program == str(ROOT / "src/main.py")
        assert flags[-2:] == ["--n_threads", "0"], f"{path} does not pass its flags on"
        if "--test_only" in flags:  # the weights are not there, so the flags do not come from them
            flags[flags.index("--pre_train") + 1] = "download"
        args = parse_args(flags)
        kind, model, scale = re.fullmatch(
            r"(pcl_scratch_|pcl_finetune_|)(.*)_x(\d)", path.stem
        ).groups()
        assert args.scale == [int(scale)]
        assert args.model.lower() == model.removesuffix("_baseline")
        assert (args.n_feats == 256) == (model in ("edsr", "nlsn"))
        assert args.test_only == (path.parent.name == "test")
        if path.parent.name == "train":
            assert args.patch_size == 48 * int(scale)
            assert ("CL-patchD" in args.loss) == bool(kind)
            assert (args.pre_train is not None) == (
                kind == "pcl_finetune_" or (kind == "" and needs_a_start(model, scale))
            )


def needs_a_start(model, scale):
    """Return whether a network is published as trained from other weights."""
    return model == "han" or scale != "2"
