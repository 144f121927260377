"""Training steps and tests on fake CUDA tensors, without a GPU: devices, host waits, copies."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda.restart import NoCompilerError, environment

from loss import LOSSES
from model import NETWORKS
from small_networks import SMALL

RUN_CASES = Path(__file__).with_name("run_cases.py")
COUNT_CUDA = Path(__file__).resolve().parents[2] / "scripts/dev/count_cuda.py"
BASE = f"{SMALL} --scale 4 --patch_size 96 --batch_size 4 --mcl_neg 2 --print_every 100 "
PRECISIONS = ("single", "half", "bf16")
TRAINED = sorted(set(NETWORKS) - {"Bicubic"})
SAMPLES = "--use_aug --sharp_hr --random_neg --only_blur "
# flags of PCL-SR that change what runs on the device
VARIANTS = [
    "--use_noise_pos", "--only_blur false", "--only_blur false --neg_sr", "--shuffle_neg",
    "--contras_D_train", "--gan_k 2", "--split_batch 2", "--gclip 0.5", "--gclip_norm 0.5",
    "--use_ema", "--optimizer RMSprop", "--optimizer ADAMW", "--no_ad_loss false", "--n_colors 1",
    "--rgb_range 1", "--only_aug", "--before_relu false --use_wavelet false",
    *[f"--cl_loss_type {kind} --cl_layer 2,4,6 --layer_weight" for kind in ("LMCL", "l1", "l2")],
]  # fmt: skip
# noise and JPEG images are made on the host; an optimizer that is not fused asks GradScaler there
WAITING = re.compile(r"--only_blur false|--use_noise_pos|half .*RMSprop")
TILES = "--chop --chop_size 16 --chop_overlap 6"


@pytest.fixture(scope="module")
def device():
    """The environment variables of a process with the fake device."""
    try:
        return environment()
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture
def run_cases(device, tmp_path):
    """Run cases (kind, flags) or (kind, flags, planted defect); return their results."""

    def run(cases):
        path = tmp_path / "cases.json"
        cases = [
            dict(zip(("kind", "flags", "plant"), (*case, None), strict=False)) for case in cases
        ]
        path.write_text(json.dumps([{**case, "flags": BASE + case["flags"]} for case in cases]))
        command = [sys.executable, str(RUN_CASES), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=device)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) == len(cases), done.stderr
        return results

    return run


def problems(results):
    """Return a line for each case that failed, waits more than once a step, or copies in a step."""
    found = []
    for result in results:
        name, counts = f"{result['kind']} {result['flags'].removeprefix(BASE)}", result["counts"]
        if result["error"]:
            found.append(f"{name}: {result['error']}")
        elif result["kind"] == "test" or WAITING.search(name):
            continue
        elif sum(counts["waits"].values()) != 1 or counts["copies"]:
            found.append(f"{name}: {counts}")
    return found


def pcl(more, precision="bf16"):
    return f"--precision {precision} --template PCL_InfoNCE {more}"


def loss_flags(name, precision):
    text = "1*L1" if name == "L1" else f"1*L1+0.1*{name} --cl_layer 2,4"
    return f"--precision {precision} --loss {text} {SAMPLES}"


def test_steps_stay_on_the_device_and_wait_once_and_planted_defects_are_found(run_cases):
    planted = [("step", pcl(""), "cpu_kernel"), ("step", "--precision bf16", "item")]
    cases = [("step", f"--model {name} --precision bf16") for name in TRAINED]
    cases += [("steps", pcl("--model EDSR")), ("step", pcl("--model NLSN", "half"))]
    cases += [("step", loss_flags(name, "bf16")) for name in ("VGG22", "WGAN_GP")]
    cases += [("test", f"--model {name} --precision single") for name in ("EDSR", "NLSN")]
    cases += [("test", f"--precision bf16 {TILES}")]
    wrong_device, wait, *others = run_cases(planted + cases)
    assert problems(others) == []
    assert re.search(
        r"mixes cuda and cpu tensors at loss/samples.py:\d+", *problems([wrong_device])
    )
    assert re.search(r"_local_scalar_dense.default loss/__init__.py:\d+", *problems([wait]))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_network_in_every_precision(run_cases, name):
    cases = []
    for precision in PRECISIONS:
        network = f"--model {name} --precision {precision}"
        cases += [("steps", network), ("steps", f"{network} --template PCL_InfoNCE")]
        cases += [("test", f"{network} {more}") for more in ("", "--self_ensemble", TILES)]
    assert problems(run_cases(cases)) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_every_loss_and_variant_of_pcl(run_cases, precision):
    cases = [("steps", loss_flags(name, precision)) for name in LOSSES if name != "KD"]
    cases += [("steps", pcl(more, precision)) for more in VARIANTS]
    assert problems(run_cases(cases)) == []


def counts_of(device, flags):
    """Return the last line of count_cuda.py as a dict, and what it has printed."""
    command = [sys.executable, str(COUNT_CUDA), "--scale", "4", "--precision", "bf16", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=device)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()
    assert words[::2] == ["ops", "waits", "copies", "exchanges"]
    return dict(zip(words[::2], map(int, words[1::2]), strict=True)), done.stdout


# the most operations and exchanges of a training step; docs/performance.md has the counts
LIMITS = [
    ("--template PCL_InfoNCE --ranks 2", 900, 32),
    pytest.param("", 210, 0, marks=pytest.mark.slow),
    pytest.param("--template PCL_InfoNCE", 640, 0, marks=pytest.mark.slow),
    pytest.param("--template RCAN", 5000, 0, marks=pytest.mark.slow),
    pytest.param("--template HAN", 5100, 0, marks=pytest.mark.slow),
    # 9 sets a block, and one gather for all layers and for all logits
    pytest.param("--template PCL_paper --ranks 2", 1400, 35, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("flags", "most_ops", "most_exchanges"), LIMITS)
def test_a_training_step_has_few_operations_and_exchanges(device, flags, most_ops, most_exchanges):
    counts, out = counts_of(device, [*flags.split(), "--verbose", "--floor"])
    assert 100 < counts["ops"] <= most_ops, out
    assert counts["exchanges"] <= most_exchanges, out
    assert (counts["exchanges"] > 10) == ("--ranks" in flags)
    assert (counts["waits"], counts["copies"]) == (1, 0), out
    assert re.search(r"^ +\d+ convolution_backward.default$", out, re.M)
    assert re.search(r"^ +\d+ loss/pixel.py:\d+$", out, re.M)
    assert re.search(r"^work: .* GFLOP in bf16; [\d.]+ GB$", out, re.M)


@pytest.mark.slow
def test_the_floor_is_that_of_the_arithmetic_and_the_memory(device):
    flags = "--n_resblocks 1 --n_feats 64 --batch_size 2 --patch_size 96 --scale 1 --precision bf16"
    _, out = counts_of(device, [*flags.split(), "--floor"])
    # forward, gradients of input and weights: 3 of each convolution of 64 channels, 96x96 pixels
    body = 3 * 3 * 2 * (2 * 96**2) * 64 * 64 * 9 / 1e9
    found = float(re.search(r"([\d,.]+) GFLOP in bf16", out)[1].replace(",", ""))
    assert 0.99 * body <= found <= 1.1 * body
    gigabytes = float(re.search(r"([\d.]+) GB$", out, re.M)[1])
    maps = 2 * 96**2 * 64 * 2 / 1e9  # one feature map in bf16
    assert 15 * maps < gigabytes < 60 * maps


@pytest.mark.slow
def test_count_cuda_names_bad_flags(device):
    # without `device` in its environment, so that it starts itself again
    command = [sys.executable, str(COUNT_CUDA), "--scale", "five"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "--scale" in done.stderr
