"""Training and tests on an NVIDIA GPU, compared with the CPU; see scripts/dev/gpu_check.sh."""

import numpy as np
import pytest
import torch

from helpers import state_of
from metric import calc_psnr, calc_ssim

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
NETWORKS = {
    "EDSR": "--n_resblocks 2 --n_feats 16",
    "RCAN": "--n_resgroups 2 --n_resblocks 2 --n_feats 16 --reduction 4",
    "HAN": "--n_resgroups 2 --n_resblocks 2 --n_feats 16 --reduction 4",
    "NLSN": "--n_resblocks 2 --n_feats 16 --nlsn_chunk_size 48",
}
RUN = "--scale 2 --patch_size 48 --batch_size 4 --test_every 4 --print_every 2 --lr 1e-3 "
RUN += "--data_range 1-3/4-4 --data_test Set5 --n_threads 2 --epochs 1"


def train(sr, name, *flags):
    """Train for one epoch; return the lines of metrics.jsonl."""
    status, out, errors = sr(*RUN.split(), "--save", name, *flags)
    assert status == 0, out + errors
    return sr.metrics(name)


@pytest.mark.parametrize("precision", ["single", "half", "bf16"])
@pytest.mark.parametrize("template", ["PCL", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_on_the_gpu_follows_that_on_the_cpu(sr, name, template, precision):
    flags = ["--model", name, *NETWORKS[name].split()]
    flags += ["--template", template] if template else []
    on_cpu = train(sr, "cpu", *flags, "--precision", "single", "--cpu")
    on_gpu = train(sr, "gpu", *flags, "--precision", precision)
    tolerance = 0.002 if precision == "single" else 0.05
    if name == "NLSN":  # in training, the rotations of its hashes are drawn on the device
        tolerance = 0.1
    assert on_gpu[0]["loss"]["L1"] == pytest.approx(on_cpu[0]["loss"]["L1"], rel=tolerance)
    assert np.isfinite(on_gpu[1]["psnr"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_test_gives_the_figures_of_the_cpu(sr, name):
    train(sr, "trained", "--model", name, *NETWORKS[name].split(), "--precision", "bf16")
    weights = sr.folder("trained") / "model/model_latest.pt"
    flags = ["--pre_train", weights, "--test_only", "--scale", 2, "--data_test", "Set5"]
    scores = []
    for where in ("--cpu", "", "--self_ensemble", "--chop --chop_size 48 --chop_overlap 16"):
        status, out, errors = sr(*flags, *where.split(), "--save", f"test{len(scores)}")
        assert status == 0, out + errors
        scores += sr.metrics(f"test{len(scores)}")
    assert scores[1]["psnr"] == pytest.approx(scores[0]["psnr"], abs=1e-3)
    assert scores[1]["ssim"] == pytest.approx(scores[0]["ssim"], abs=1e-5)


@pytest.mark.parametrize(("before", "after"), [("bf16", "half"), ("half", "bf16")])
def test_a_run_is_resumed_in_another_precision(sr, before, after):
    train(sr, "run", *NETWORKS["EDSR"].split(), "--precision", before)
    status, out, errors = sr("--load", "run", "--precision", after, "--epochs", 2)
    assert status == 0, out + errors
    assert state_of(sr.folder("run"))["epoch"] == 2


def test_a_compiled_network_trains_alike(sr):
    flags = [*NETWORKS["EDSR"].split(), "--precision", "single"]
    plain, compiled = train(sr, "plain", *flags), train(sr, "compiled", *flags, "--compile")
    assert compiled[0]["loss"]["L1"] == pytest.approx(plain[0]["loss"]["L1"], rel=2e-3)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_every_mode_of_the_compiler_trains_alike(sr, mode):
    flags = [*NETWORKS["EDSR"].split(), "--precision", "bf16", "--template", "PCL_InfoNCE"]
    plain = train(sr, "plain", *flags)
    compiled = train(sr, "compiled", *flags, "--compile", "--compile_mode", mode)
    assert compiled[0]["loss"]["L1"] == pytest.approx(plain[0]["loss"]["L1"], rel=2e-2)


@pytest.mark.parametrize("benchmark", [True, False])
def test_metrics_are_those_of_the_cpu(benchmark):
    generator = torch.Generator().manual_seed(0)
    hr = (torch.rand(3, 321, 481, generator=generator) * 255).round()
    sr = hr + 20 * torch.randn(hr.shape, generator=generator)
    for metric in (calc_psnr, calc_ssim):
        on_cpu = metric(sr, hr, 4, 255, benchmark)
        assert metric(sr.cuda(), hr.cuda(), 4, 255, benchmark) == pytest.approx(on_cpu, abs=1e-9)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_like_one(sr):
    flags = ["--template", "PCL_InfoNCE", *NETWORKS["EDSR"].split(), "--precision", "single"]
    one, two = train(sr, "one", *flags), train(sr, "two", *flags, "--n_GPUs", 2)
    for term, value in one[0]["loss"].items():
        assert two[0]["loss"][term] == pytest.approx(value, rel=5e-3), term
