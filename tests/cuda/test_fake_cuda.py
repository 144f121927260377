"""Training steps on fake CUDA tensors, without a GPU: mixed devices, host waits, copies."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from count_cuda import environment

from loss import LOSSES
from model import NETWORKS
from runtime.files import UserError
from small_networks import SMALL

RUN_CASES = Path(__file__).with_name("run_cases.py")
COUNT_CUDA = Path(__file__).resolve().parents[2] / "scripts/dev/count_cuda.py"
BASE = f"{SMALL} --scale 4 --patch_size 96 --batch_size 4 --mcl_neg 2 --print_every 100 "
TRAINED = sorted(set(NETWORKS) - {"Bicubic"})
SAMPLES = "--use_aug --sharp_hr --random_neg --only_blur "
# flags of PCL-SR that change what runs on the device
VARIANTS = """\
--shuffle_neg
--contras_D_train
--gan_k 2
--split_batch 2
--gclip 0.5
--gclip_norm 0.5
--use_ema
--optimizer ADAMW
--optimizer SGD
--no_ad_loss false
--n_colors 1
--rgb_range 1
--only_aug
--before_relu false --use_wavelet false
--cl_loss_type LMCL --cl_layer 2,4,6 --layer_weight
--cl_loss_type l1 --cl_layer 2,4,6 --layer_weight
--cl_loss_type l2 --cl_layer 2,4,6 --layer_weight""".split("\n")


@pytest.fixture(scope="module")
def device():
    """The environment variables of a process with the fake device."""
    try:
        return environment()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def problems(device, tmp_path):
    """problems([flags, ...], planted): a line for each that fails, waits more than once, or copies."""

    def run(cases, planted=()):
        path = tmp_path / "cases.json"
        cases = [(flags, None) for flags in cases] + list(planted)
        path.write_text(json.dumps([{"flags": BASE + f, "plant": plant} for f, plant in cases]))
        command = [sys.executable, str(RUN_CASES), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=device)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) == len(cases), done.stderr
        return [
            f"{flags}: {result}"
            for (flags, _), result in zip(cases, results, strict=True)
            if result.get("error") or sum(result["waits"].values()) != 1 or result["copies"]
        ]

    return run


def pcl(more):
    return f"--precision bf16 --template PCL_InfoNCE {more}"


def loss_flags(name):
    text = "1*L1" if name == "L1" else f"1*L1+0.1*{name} --cl_layer 2,4"
    return f"--precision bf16 --loss {text} {SAMPLES}"


def test_steps_stay_on_the_device_and_wait_once_and_planted_defects_are_found(problems):
    flags = [f"--model {name} --precision bf16" for name in TRAINED]
    flags += [pcl(""), loss_flags("VGG22"), loss_flags("WGAN_GP")]
    found = problems(flags, [(pcl(""), "cpu_kernel"), ("--precision bf16", "item")])
    assert len(found) == 2, found
    assert re.search(r"mixes cuda and cpu tensors at loss/\w+.py:\d+", found[0])
    assert re.search(r"_local_scalar_dense.default loss/__init__.py:\d+", found[1])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["single", "half"])
def test_every_network_in_other_precisions(problems, precision):
    flags = [f"--model {name} --precision {precision}" for name in TRAINED]
    flags += [f"{network} --template PCL_InfoNCE" for network in flags]
    found = problems(flags)
    # GradScaler asks the device whether it may step
    assert [line for line in found if precision == "single" or "error" in line] == []


@pytest.mark.slow
def test_every_loss_and_variant_of_pcl(problems):
    assert problems([*map(loss_flags, sorted(set(LOSSES) - {"KD"})), *map(pcl, VARIANTS)]) == []


def test_count_cuda_restarts_and_prints_its_counts(device):
    command = [sys.executable, str(COUNT_CUDA), *BASE.split(), "--precision", "bf16", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert re.fullmatch(r"ops \d{3} waits 1 copies 0", last)
    assert re.fullmatch(r" +1 waits _to_copy.default loss/__init__.py:\d+", *lines)
