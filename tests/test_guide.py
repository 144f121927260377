"""The commands of README.md and docs/guide.md, in a copy of the project with small data in place of what they would fetch."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import write_set

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--n_resblocks 1 --n_resgroups 1 --n_feats 16 --patch_size 48 --batch_size 4 --test_every 1 --epochs 1 --decay 1 "
SMALL += "--data_range 1-3/4-4 --n_threads 0"


# what they fetch or run is tested elsewhere: test_prepare_data.py, test_scripts.py, .ci/run
ELSEWHERE = r"(python )?scripts/(prepare_data.py (div2k|benchmark)|(setup|quickstart|test).sh)"


def commands(page):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    lines = [x for block in blocks for x in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


@pytest.fixture
def project(tmp_path, photographs):
    """A copy of the program with what the guide's reader has by then: data, pictures, a published checkpoint."""
    root = tmp_path / "project"
    for name in ("src", "scripts", "pic"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    numbered = {f"{i:04d}": image for i, image in enumerate(photographs.values(), 1)}
    div2k, benchmark = root / "datasets/DIV2K", root / "datasets/benchmark"
    shutil.copytree(ROOT / "experiment/model", root / "experiment/model")
    write_set(div2k / "DIV2K_train_HR", numbered, div2k / "DIV2K_train_LR_bicubic", (2, 4))
    two = {"baby": photographs["chelsea"], "bird": photographs["coffee"]}
    for name in ("Set5", "Set14", "B100", "Urban100"):
        write_set(benchmark / name / "HR", two, benchmark / name / "LR_bicubic", (2, 3, 4))
    write_set(root / "photos", photographs)
    (root / "bin").mkdir()
    for name, words in {
        "python": "",
        "python3": "",
        "torchrun": "-m torch.distributed.run",
    }.items():
        (root / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (root / "bin" / name).chmod(0o755)
    return root


def start(project, command):
    """Start a command as a reader types it, made small: further flags win over those before them."""
    command = command.replace("HOST:29500", "localhost:29517").replace(
        "--nproc_per_node=8", "--nproc_per_node=1"
    )
    if re.search(r"main\.py|scripts/train/|upscale\.sh|export_onnx", command):
        network, training = SMALL.split(" --patch_size")
        if re.search(r"experiment/model|Bicubic|upscale.sh(?!.*--pre_train)", command):
            network = ""  # the weights say which, or there are none
        tests = re.search(r"--test_only|upscale\.sh|export_onnx", command)
        if "--load" not in command:  # which has the flags of the run it goes on with
            command += f" {network}" + ("" if tests else f" --patch_size{training}")
        if "--template tiny" in command or "--hold_out" in command:
            command += " --hold_out 1"  # there are fewer photographs than 10
        elif not (tests or "--data_test" in command or "--load" in command):
            command += " --data_test Set5"
        command += " --cpu"
    path = os.pathsep.join([str(project / "bin"), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=project,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow  # a minute: 20 programs one after the other
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_every_command(project, page):
    from model import build_network
    from option import parse_args

    small = "--template RCAN --scale 4 --n_resblocks 1 --n_resgroups 1 --n_feats 16"
    torch.save(build_network(parse_args(small.split())).state_dict(), project / "RCAN_BIX4.pt")
    test = "python src/main.py --test_only --data_test Set5 --save_results --save_gt --pre_train"
    before = [f"{test} RCAN_BIX4.pt --save quickstart_{name}" for name in ("EDSR", "EDSR-PCL")]
    for command in [*(before if page == "README.md" else []), *commands(page)]:
        if re.match(ELSEWHERE, command):
            continue
        processes = [start(project, command) for _ in range(2 if "--nnodes=2" in command else 1)]
        for process in processes:
            out, _ = process.communicate(timeout=600)
            assert process.returncode == 0, f"{command}\n{out}"
    made = {
        "README.md": "report.html upscaled/urban100.png upscaled/astronaut.png experiment/EDSR_PCL_x4/model/model_best.pt",
        "docs/guide.md": "results.csv set5.png upscaled/astronaut.png EDSR_x4.onnx "
        "datasets/MyPhotos/LR_bicubic/X4/rocketx4.png",
    }
    for name in made[page].split():
        assert (project / name).stat().st_size > 0, name
