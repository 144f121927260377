"""The commands beside main.py."""

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
    folders = {"VENV": "venv", "DIR_DATA": "data", "DIR_EXPERIMENT": "experiment"}
    env = {name: str(tmp_path / folder) for name, folder in folders.items()}
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path), **env}
    command = ["bash", ROOT / "scripts/quickstart.sh", "--test_every", "1", "--n_threads", "0"]

    def run(epochs):
        output = {"capture_output": True, "text": True, "check": True}
        return subprocess.run([*command, "--epochs", epochs], env=env, **output).stdout

    first = run("1")
    assert all(f"| {name} " in first for name in ("bicubic", "EDSR", "EDSR-L1", "EDSR-PCL"))
    assert "[Epoch 1/1]" in first
    assert (tmp_path / "experiment/quickstart_astronaut.png").stat().st_size > 10_000
    second = run("2")
    assert second.count("Resumed after epoch 1") == 3
    assert "[Epoch 1/" not in second


def test_picture_of_the_samples(tmp_path, data_dir):
    picture = tmp_path / "samples.png"
    coffee = str(data_dir / "benchmark/Set5/HR/coffee.png")
    assert draw_pcl_samples.main([coffee, str(picture), *"--box 8 8 64".split()]) == 0
    labels, _ = zip(*draw_pcl_samples.make_samples(np.zeros((64, 64, 3), np.uint8), 4), strict=True)
    for kind in ("positive", "negative"):
        assert sum(kind in label for label in labels) == 3


# -------------------------------------------------------- scripts per network

NETWORKS = ("edsr_baseline", "edsr", "rcan", "han", "nlsn")
KINDS = ("train/{}.sh {}", "train/{}_pcl.sh {}", "train/{}_pcl.sh {} scratch", "test/{}.sh {}")
no_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def run_recipe(call):
    """Run a recipe with PYTHON=echo, which prints the command of main.py in place of running it."""
    env = {**os.environ, "PYTHON": "echo"}
    command = ["bash", *shlex.split(f"{ROOT}/scripts/{call}")]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_scripts_of_the_documents_can_be_called():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = set(re.findall(r"(?m)^(?:sbatch )?(scripts/[\w/]+\.(?:py|sh|sbatch))", text))
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).read_text(encoding="utf-8").startswith("#!/usr/bin/env "), name
        assert os.access(ROOT / name, os.X_OK), f"{name} must be executable"


@no_bash
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_recipe_runs_what_its_name_says(network, kind):
    for scale in (2, 3, 4, 8):
        call = kind.format(network, scale)
        program, *flags = shlex.split(run_recipe(f"{call} --n_threads 0").stdout)
        assert program == str(ROOT / "src/main.py")
        assert flags[-2:] == ["--n_threads", "0"], f"{call} does not pass its flags on"
        if "--test_only" in flags:  # the weights are not there, so the flags do not come from them
            flags[flags.index("--pre_train") + 1] = "download"
        args = parse_args(flags)
        assert args.scale == [scale]
        assert args.save.endswith(f"x{scale}" if "train" in call else f"x{scale}_test")
        assert args.model.lower() == network.removesuffix("_baseline")
        assert (args.n_feats == 256) == (network in ("edsr", "nlsn"))
        assert args.test_only == ("test/" in call)
        if not args.test_only:
            assert args.patch_size == 48 * scale
            assert ("CL-patchD" in args.loss) == ("pcl" in call)
            # published as trained from other weights
            starts = network == "han" or scale != 2 or "pcl" in call
            assert (args.pre_train is not None) == (starts and "scratch" not in call)
            if args.epochs == 1000:
                assert args.decay == "200-400-600-800"


@no_bash
@pytest.mark.parametrize("scale", ["", "5", "x4", "--epochs 3", "4.0"])
def test_a_recipe_without_a_scale_says_which_there_are(scale):
    for kind in KINDS:
        result = run_recipe(kind.format("rcan", scale))
        assert result.returncode == 2 and not result.stdout
        assert re.fullmatch(r"error: .*2, 3, 4, 8.*\n", result.stderr), result.stderr
    assert "SCALE [FLAGS" in run_recipe("train/rcan.sh --help").stdout


@no_bash
@pytest.mark.parametrize("target", ["x2", "x3", "x4", "real", "fast"])
def test_shipped_weights_have_a_recipe(target, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    call = f"train/zoo.sh {target} /data --epochs 3 --dir_experiment=~/runs"
    args = parse_args(shlex.split(run_recipe(call).stdout)[1:])
    assert (args.epochs, args.hold_out, args.dir_data) == (3, 10, "/data")
    assert args.scale == [2 if target == "fast" else int(target.strip("x").replace("real", "4"))]
    refused = run_recipe(f"train/zoo.sh {target}0")
    assert refused.returncode == 2 and "x2, x3, x4, real, fast" in refused.stderr
    (tmp_path / f"runs/{args.save}/model").mkdir(parents=True)
    (tmp_path / f"runs/{args.save}/model/state.pt").touch()
    assert f"--load {args.save} --dir_data /data --epochs 3" in run_recipe(call).stdout
