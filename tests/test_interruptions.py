"""What ends a run from outside: signals, a dead worker, a closed pipe, a missing compiler."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint.config import HEADER
from helpers import ForkedProgram, pause_at, same_bits, state_of
from runtime.process import VERSION

ENDLESS = ("--test_every", 100000, "--epochs", 1, "--print_every", 2)


def start(sr, *flags, before=None):
    return ForkedProgram(sr.argv(*ENDLESS, *flags)[1:], before=before)


def wait_for_step(process):
    next(line for line in process.stdout if line.startswith("[2/"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow  # test_kills.py and test_cluster.py have others
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_a_signal_of_a_cluster_or_terminal_saves_the_state(sr, name):
    # reported as submitit #1701, mmsegmentation #1998
    process = start(sr, "--save", "run")
    wait_for_step(process)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert f"Stopped by {name} after epoch 0" in out
    assert "stopped: --load run continues from here" in err
    assert state_of(sr.folder("run"))["step"] >= 2


def test_a_closed_pipe_saves_the_state(sr):
    process = start(sr, "--save", "run")
    wait_for_step(process)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert "Traceback" not in err
    assert "stopped: --load run continues from here" in err
    assert state_of(sr.folder("run"))["step"] >= 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the worker in /proc")
def test_a_killed_worker_ends_in_one_sentence_and_the_run_resumes_to_the_same_bits(sr):
    # reported as PyTorch #8976
    flags = ("--test_every", 12, "--epochs", 1)
    sr.train("--save", "whole", *flags)
    process = start(sr, "--save", "run", *flags, "--n_threads", 1, before=pause_at(3, seconds=1))
    wait_for_step(process)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        workers = [int(pid) for pid in file.read().split()]
    os.kill(workers[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert "loader worker" in err.lower()
    assert "The state after epoch 0 and" in err
    assert "--load run continues" in err
    assert sr("--load", "run", "--cpu", "--n_threads", 0)[0] == 0
    same_bits(state_of(sr.folder("whole"))["net"], state_of(sr.folder("run"))["net"])


# starts the program in a rank, of which one fails
FAILING_RANK = """
import os, signal, sys, threading
sys.path.insert(0, {src!r})
import data.patches, data.testset, main
from runtime import distributed
from runtime.files import UserError

def fail_in(cls, is_due):
    load = cls.__getitem__
    def load_or_fail(self, key):
        if is_due(key):
            {failure}
        return load(self, key)
    cls.__getitem__ = load_or_fail

if os.environ["RANK"] == "1":
    {where}
distributed.exit_process(main.main())
"""
LOADING = "fail_in(data.patches.TrainDataset, lambda key: key[1] >= 7)"  # in step 4
# a thread decodes the images of a test; checks before the training do not count
TESTING = "fail_in(data.testset.TestSet, lambda key: threading.current_thread() is not threading.main_thread())"


@pytest.mark.parametrize(
    ("where", "failure", "step"),
    [
        (LOADING, "raise UserError('0002.png is broken')", 3),
        pytest.param(TESTING, "os.kill(os.getpid(), signal.SIGTERM)", 5, marks=pytest.mark.slow),
        pytest.param(TESTING, "raise OSError('disk is gone')", 5, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_alone_leaves_the_state_that_the_message_names(
    sr, tmp_path, where, failure, step
):
    src = str(Path(__file__).resolve().parent.parent / "src")
    script = tmp_path / "rank.py"
    script.write_text(FAILING_RANK.format(src=src, where=where, failure=failure))
    flags = ["--save", "run", "--epochs", 2, "--test_every", 5, "--batch_size", 2]
    launch = "-m torch.distributed.run --nproc_per_node=2 --rdzv_backend=c10d --rdzv_endpoint=localhost:0"
    command = [sys.executable, *launch.split(), str(script), *sr.argv(*flags)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    words = "Stopped by SIGTERM after" if "signal" in failure else "The state after"
    assert f"{words} epoch 0 and {step} steps" in done.stdout + done.stderr
    state = state_of(sr.folder("run"))
    assert (state["epoch"], state["step"]) == (0, step)


def test_compile_without_a_compiler_is_refused_before_anything_is_written(sr, monkeypatch):
    # reported as PyTorch #92745, ESRT #8
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    status, _, err = sr.train("--save", "run", "--compile")
    assert status == 1
    assert "--compile needs a C++ compiler" in err
    assert not sr.folder("run").exists()


def test_a_drawing_that_fails_does_not_end_a_training(sr, monkeypatch):
    from checkpoint import plot

    monkeypatch.setattr(plot, "plot_panels", lambda *_, **__: 1 / 0)
    status, out, _ = sr.train("--save", "run", "--epochs", 1)
    assert status == 0
    assert "WARNING: the curves cannot be drawn (ZeroDivisionError" in out


def test_an_experiment_of_edsr_pytorch_is_named(sr):
    folder = sr.folder("foreign")
    (folder / "model").mkdir(parents=True)
    (folder / "config.txt").write_text("2020-01-01-10:00:00\n\nepochs: 300\nmodel: EDSR\n\n")
    status, _, err = sr("--load", "foreign", "--cpu")
    assert status == 2
    assert "is an experiment of EDSR-PyTorch" in err
    assert "--pre_train" in err
    assert (folder / "config.txt").read_text().startswith("2020")


def test_config_says_what_the_run_was_made_with_and_may_be_saved_by_an_editor(sr):
    sr.train("--save", "run", "--epochs", 1)
    config = sr.folder("run") / "config.txt"
    text = config.read_text()
    assert text.startswith(HEADER)
    for words in ("\n# commit ", "torch ", "\n# device cpu", f"\n# version {VERSION}\n"):
        assert words in text
    for epoch, encoding in enumerate(["utf-8-sig", "utf-16"], 1):  # with a byte order mark
        config.write_bytes(config.read_text().replace("\n", "\r\n").encode(encoding))
        status, out, err = sr("--load", "run", "--epochs", epoch + 1, "--cpu")
        assert status == 0, err
        assert f"Resumed after epoch {epoch}" in out


def test_the_version_is_printed(sr):
    with pytest.raises(SystemExit) as ended:
        sr("--version")
    assert not ended.value.code
