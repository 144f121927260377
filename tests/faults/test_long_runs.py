"""Runs of days: memory and files do not grow, lines that a crash has cut spoil nothing, and a run made again is the same."""

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import same_bits, state_of
from loss import LOSSES
from model import NETWORKS


def usage(pid):
    """What a process and its children hold: MiB of memory of its own, open files, processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [str(pid), *children]
    memory = sum(
        int(line.split()[1])
        for one in pids
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        if line.startswith(("Private_Dirty", "Private_Clean"))
    )
    return memory / 1024, sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids), len(pids)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "flags", [[], ["--template", "PCL_InfoNCE", "--mcl_neg", 1, "--use_ema"]], ids=["L1", "PCL"]
)
def test_memory_and_files_do_not_grow_over_5000_steps(sr, flags, counted):
    long = "--test_every 250 --epochs 20 --print_every 50 --n_threads 2 --save_results".split()
    command = [sys.executable, *sr.argv("--save", "run", *long, *flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = [usage(process.pid) for line in process.stdout if line.startswith("[Epoch ")]
    assert process.wait() == 0
    assert len(seen) == 20
    (early, files, processes), (late, *last) = seen[5], seen[-1]
    counted(
        f"{' '.join(map(str, flags[:2])) or 'L1'}: {early:.1f} MiB after 1,250 steps, {late:.1f} MiB "
        f"after 4,750; {files} and {last[0]} open files; {processes} and {last[1]} processes"
    )
    # A leak grows in each epoch. What malloc holds jumps now and then, when no free block is large enough.
    epochs = [after[0] - before[0] for before, after in itertools.pairwise(seen[5:])]
    assert statistics.median(epochs) < 0.25, "MiB in 250 steps, a KiB in each"
    assert late - early < 12
    assert last == [files, processes]


def test_lines_that_a_crash_has_cut_spoil_nothing(sr):
    sr.train("--save", "run", "--epochs", 2)
    folder = sr.folder("run")
    for name in ("log.txt", "metrics.jsonl"):
        text = (folder / name).read_bytes()
        (folder / name).write_bytes(text[:-7])
    status, _, err = sr("--load", "run", "--test_only", "--cpu")
    assert status == 0, err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    broken = [line for line in lines if not line.endswith("}")]
    assert len(broken) == 1, "the line that was cut stays by itself"
    assert json.loads(lines[-1])["dataset"] == "Set5"
    assert sr("--load", "run", "--epochs", 3, "--cpu")[0] == 0
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    assert [line["epoch"] for line in sr.metrics("run") if "loss" in line] == [1, 2, 3]
    log = (folder / "log.txt").read_text().splitlines()
    assert any(line.startswith("Resumed after epoch 2") for line in log)
    assert not any("Epoch 2/2" in line and "Epoch 3/3" in line for line in log)


def twice(sr, *flags):
    """Train twice, with two loader processes and with none, to the same bits."""
    for name, workers in (("one", 2), ("two", 0)):
        more = ["--epochs", 1, "--test_every", 2, "--n_threads", workers]
        status, _, err = sr.train("--save", name, *more, *flags)
        assert status == 0, err
    same_bits(state_of(sr.folder("one")), state_of(sr.folder("two")))


NLSN = ["--model", "NLSN", "--n_resblocks", 8, "--chunk_size", 16]
NETWORK_FLAGS = {"EDSR": [], "RCAN": [], "HAN": [], "NLSN": NLSN}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["single", "bf16"])
@pytest.mark.parametrize("model", [name for name in NETWORKS if name != "Bicubic"])
def test_each_network_trains_to_the_same_bits_again(sr, model, precision):
    grouped = ["--n_resgroups", 2, "--reduction", 4] if model in ("RCAN", "HAN") else []
    twice(sr, "--model", model, *grouped, *NETWORK_FLAGS.get(model, []), "--precision", precision)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"KD"}))  # it needs a teacher
def test_each_loss_trains_to_the_same_bits_again(sr, vgg_file, name):
    loss = f"1*L1+0.1*{name}" if name != "L1" else "1*L1"
    more = ["--no_ad_loss"] if name.startswith("CL-") else []
    more += "--use_aug --random_neg --sharp_hr --mcl_neg 1 --use_noise_pos".split()
    twice(sr, "--loss", loss, "--vgg_path", vgg_file, "--pos_noise_value", 5, *more)


def test_nlsn_with_pcl_trains_to_the_same_bits_again(sr):
    twice(sr, *NLSN, "--template", "PCL_InfoNCE", "--mcl_neg", 1, "--shuffle_neg")
