"""The sample sets of PCL-SR together, as on a GPU: the same training as one set at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import state_of

SCRIPT = str(Path(__file__).with_name("stacked_sets.py"))
RANKS = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
RANKS += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
# 5 images: the ranks have 2 and 3
FLAGS = (
    "--template PCL_InfoNCE --mcl_neg 1 --cl_layer 1,4 --batch_size 5 --epochs 1 --test_every 3 "
)
FLAGS += "--embed_lr 1e-5 --contras_D_train --shuffle_neg --no_ad_loss false"


def differences(one, other):
    """Yield (name, mean difference relative to the mean) of the float tensors of two states."""
    for part in ("net", "loss"):
        for name, value in one[part].items():
            if torch.is_tensor(value) and value.is_floating_point():
                size = value.abs().mean().clamp_min(1e-3)
                yield name, float((other[part][name] - value).abs().mean() / size)


@pytest.mark.parametrize(
    ("n_ranks", "more"),
    [
        (1, ""),
        (2, ""),
        (2, "--before_relu false --loss 1*L1+1*CL-WGAN_GP"),
        pytest.param(2, "--cl_layer 0,7", marks=pytest.mark.slow),
    ],
)
def test_stacked_sample_sets_train_like_single_ones(sr, n_ranks, more):
    flags = [*FLAGS.split(), *more.split()]
    assert sr.train("--save", "single", *flags)[0] == 0
    launcher = RANKS if n_ranks > 1 else []
    command = [sys.executable, *launcher, SCRIPT, *sr.argv("--save", "stacked", *flags)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    single, stacked = (sr.metrics(name)[0]["loss"] for name in ("single", "stacked"))
    assert stacked == pytest.approx(single, rel=1e-3)
    states = [state_of(sr.folder(name)) for name in ("single", "stacked")]
    found = dict(differences(*states))
    assert len(found) > 50
    assert max(found.values()) < 1e-3, max(found.items(), key=lambda pair: pair[1])
