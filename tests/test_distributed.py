"""Several processes: the same training and the same figures as one, started by torchrun or by --n_GPUs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import run_two_ranks, state_of
from runtime import distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv_backend=c10d"]
TWO = [*TORCHRUN, "--nproc_per_node=2", "--rdzv_endpoint=localhost:0"]


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **more)


def losses(sr, name):
    return [line["loss"]["L1"] for line in sr.metrics(name) if "loss" in line]


def figures(sr, name):
    return [(line["psnr"], line["ssim"]) for line in sr.metrics(name) if "dataset" in line]


def test_two_processes_train_and_test_like_one(sr):
    # 5 patches and 3 test images: neither number is even
    flags = "--epochs 2 --test_every 4 --batch_size 5 --data_test Set5+DIV2K".split()
    flags += "--data_range 1-1/2-4 --patch_size 16 --print_every 4 --save_results --use_ema --split_batch 2".split()
    assert sr.train("--save", "one", *flags)[0] == 0
    done = run([*TWO, *sr.argv("--save", "two", *flags)])
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert losses(sr, "two") == pytest.approx(losses(sr, "one"), rel=1e-4)
    for one, two in zip(figures(sr, "one"), figures(sr, "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    one, two = (sr.folder(name).glob("results-*/*.png") for name in ("one", "two"))
    names = {path.name for path in one}
    assert len(names) == 5
    assert names == {path.name for path in two}
    # the same weights give the same figures, however many test them
    weights = ["--pre_train", sr.folder("one") / "model/model_latest.pt", "--test_only", *flags]
    assert sr.train("--save", "test_one", *weights)[0] == 0
    statuses, out = run_two_ranks(sr.argv("--save", "test_two", *weights)[1:])
    assert statuses == [0, 0], out
    for one, two in zip(figures(sr, "test_one"), figures(sr, "test_two"), strict=True):
        assert two == pytest.approx(one, abs=1e-6)


@pytest.mark.slow
def test_two_machines_train_like_one(sr):
    """Each torchrun is what runs on a machine of its own; they meet at a port of this one."""
    flags = ["--epochs", 1, "--test_every", 3, "--batch_size", 5]
    assert sr.train("--save", "one", *flags)[0] == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    command = [*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", f"--rdzv_endpoint={endpoint}"]
    command += sr.argv("--save", "two", *flags)
    machines = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        outputs = [machine.communicate(timeout=120) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    # rank 0 alone writes the log
    assert sorted("2 processes" in out for out, _ in outputs) == [False, True]
    assert losses(sr, "two") == pytest.approx(losses(sr, "one"), rel=1e-4)
    for one, two in zip(figures(sr, "one"), figures(sr, "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


PCL = "--template PCL_InfoNCE --mcl_neg 1 --cl_layer 1,4 --batch_size 3 --epochs 1 --test_every 2 --embed_lr 1e-5"


@pytest.mark.parametrize(
    "flags",
    [
        # SGD, unlike Adam, tells a gradient from twice that gradient
        "--optimizer SGD --loss 1*L1+1*CL-RGAN+0.1*WGAN_GP --cl_loss_type l1 --no_ad_loss false "
        "--only_blur false",
        pytest.param(
            "--loss 1*L1+1*CL-patchD --contras_D_train --shuffle_neg --use_noise_pos --gan_k 2",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            # not NLSN: rounding decides into which of two buckets a pixel falls
            "--loss 1*L1+1*CL-GAN --cl_loss_type l2 --no_ad_loss false --model RCAN "
            "--n_resgroups 1 --n_resblocks 1 --reduction 4",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_contrastive_and_adversarial_losses_are_those_of_one_process(sr, flags):
    """Statistics of the embedding, random samples and losses over all logits do not depend on where an image is."""
    flags = [*PCL.split(), *flags.split()]
    assert sr.train("--save", "one", *flags)[0] == 0
    statuses, out = run_two_ranks(sr.argv("--save", "two", *flags)[1:])
    assert statuses == [0, 0], out
    one, two = (sr.metrics(name)[0]["loss"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=5e-3)
    states = [state_of(sr.folder(name)) for name in ("one", "two")]
    for part in ("net", "loss"):
        for name, value in states[0][part].items():
            if torch.is_tensor(value) and value.is_floating_point():
                # of all values: Adam moves one whose gradient is nearly 0 either way
                error = (states[1][part][name] - value).abs().mean()
                assert error < 1e-3 * value.abs().mean().clamp_min(1e-3), name


def test_n_gpus_starts_processes_that_ctrl_c_stops_and_one_continues(sr):
    flags = "--template PCL_InfoNCE --mcl_neg 1 --batch_size 2 --print_every 1".split()
    command = [sys.executable, *sr.argv("--save", "pcl", "--epochs", 1, *flags)]
    process = subprocess.Popen(
        [*command, "--test_every", "400", "--n_GPUs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    next(line for line in process.stdout if line.startswith("[2/"))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Stopped by SIGINT" in out
    step = state_of(sr.folder("pcl"))["step"]
    assert step >= 2
    status, out, _ = sr("--load", "pcl", "--test_every", step + 1, "--cpu")
    assert status == 0
    assert f"Resumed after epoch 0 and {step} steps" in out
    assert state_of(sr.folder("pcl"))["epoch"] == 1


def ranks_of(name):
    """The processes of a run by rank, found by the name of its experiment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            rank = re.search(rb"(?:^|\0)RANK=(\d+)", (folder / "environ").read_bytes())
        except OSError:
            continue
        if name.encode() in words and rank:
            found.setdefault(int(rank[1]), int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_the_death_of_one_process_ends_the_run_and_it_goes_on_with_one(sr):
    flags = ["--epochs", 2, "--test_every", 400, "--print_every", 5, "--n_threads", 0]
    command = [sys.executable, *sr.argv("--save", "mortal", *flags, "--n_GPUs", 2)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    next(line for line in process.stdout if line.startswith("[20/"))
    os.kill(ranks_of("mortal")[1], signal.SIGKILL)
    process.stdout.read()
    errors = process.stderr.read()
    assert process.wait(60) == 1
    assert "Traceback" not in errors
    assert (
        "process 1 of 2 died (SIGKILL): --load mortal continues" in errors
        or "another process of the run has ended" in errors
    )
    assert not ranks_of("mortal")
    assert sr("--load", "mortal", "--test_every", 4, "--cpu")[0] == 0
    lines = sr.metrics("mortal")
    assert [line["epoch"] for line in lines if "loss" in line] == [1, 2]
    assert [line["epoch"] for line in lines if "dataset" in line] == [1, 2]


def test_more_processes_than_patches_are_refused(sr, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "process_group", lambda device: contextlib.nullcontext())
    status, _, err = sr.train("--save", "few", "--batch_size", 1)
    assert status == 1
    assert "--batch_size 1 must be at least processes" in err
    assert not sr.folder("few").exists()
