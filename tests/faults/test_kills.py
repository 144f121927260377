"""A training that is stopped at any instant loses nothing: it goes on to the same bits as one that was never stopped.

`scripts/test.sh --slow tests/faults/test_kills.py` makes 50 stops of each kind at random instants.
"""

import random
import signal
import time

import pytest
import torch

from helpers import ForkedProgram, is_whole, pause_at, same_bits, state_of
from trainer import Trainer

# PCL-SR with a moving average, augmentation, two loader workers: all that has a state
PCL = "--template PCL_InfoNCE --mcl_neg 1 --use_ema --ema_iter 2 --gclip 1 --scheduler Cosine --cosine_tmax 4 --save_models --n_threads 2"
FLAGS = [*PCL.split(), "--epochs", 3, "--test_every", 6, "--batch_size", 2, "--print_every", 2]


STARTED = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def start(sr, *flags, before=None):
    STARTED.append(ForkedProgram(sr.argv(*flags)[1:], before=before))
    return STARTED[-1]


def wait_for_line(process, start):
    next(line for line in process.stdout if line.startswith(start))


def stopped_again_and_again(sr, name, signum, rng, span, most):
    """Start and go on with a run, stopping it after random seconds, until it ends; gives how often it was stopped."""
    stops, flags = 0, ["--save", name, *FLAGS]
    while True:
        process = start(sr, *flags)
        if stops < most:
            time.sleep(rng.uniform(*span))
            process.send_signal(signum)
        out, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            return stops
        stops += 1
        assert "Traceback" not in errors, errors
        folder = sr.folder(name)
        if (folder / "model/state.pt").exists():
            assert is_whole(folder)
            flags = ["--load", name, *FLAGS]
            if "Stopped by" in out:
                assert process.returncode == 128 + signum
                assert f"--load {name} continues from here" in errors


def kills(sr, signum, rng, count):
    """Stop runs `count` times in all, compare what they leave with an undisturbed run, and tell how many it took."""
    began = time.perf_counter()
    process = start(sr, "--save", "whole", *FLAGS)
    process.communicate()
    assert process.returncode == 0
    seconds = time.perf_counter() - began
    done = runs = 0
    while done < count:
        runs += 1
        name, span = f"run{runs}", (0.3 * seconds, 0.95 * seconds)
        done += stopped_again_and_again(sr, name, signum, rng, span, min(8, count - done))
        same_bits(*(state_of(sr.folder(x)) for x in (name, "whole")))
        for kind in ("model_latest", "model_best", "model_2"):
            files = (sr.folder(x) / f"model/{kind}.pt" for x in (name, "whole"))
            same_bits(*(torch.load(path, weights_only=True) for path in files))
        lines, whole = (sr.metrics(x) for x in (name, "whole"))
        assert [x for x in lines if "dataset" in x] == [x for x in whole if "dataset" in x]
    return f"{signal.Signals(signum).name}: {done} stops in {runs} runs, all ended in the bits of the undisturbed run"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_fifty_random_instants(sr, signum, counted):
    counted(kills(sr, signum, random.Random(100 + signum), 50))


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_in_an_epoch_saves_at_once_and_the_run_goes_on_from_there(sr, signum):
    flags = ["--test_every", 30, "--print_every", 10, "--epochs", 1, "--n_threads", 2]
    assert sr.train("--save", "whole", *flags)[0] == 0
    process = start(sr, "--save", "run", *flags, before=pause_at(21))
    wait_for_line(process, "[20/")
    process.send_signal(signum)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert errors.splitlines() == [
        f"{signal.Signals(signum).name}: stopping after this step; Ctrl-C again stops at once",
        "stopped: --load run continues from here",
    ]
    state = state_of(sr.folder("run"))
    assert state["epoch"] == 0
    assert state["step"] in (20, 21)
    assert f"after epoch 0 and {state['step']} steps; state saved" in out
    status, out, _ = sr("--load", "run", "--cpu")
    assert status == 0
    assert f"Resumed after epoch 0 and {state['step']} steps" in out
    same_bits(state_of(sr.folder("run")), state_of(sr.folder("whole")))
    assert sr.metrics("run")[0]["loss"] == sr.metrics("whole")[0]["loss"]


def never_finish_a_step():
    def train_step(*_):
        print("[a step]", flush=True)
        time.sleep(60)

    Trainer.train_step = train_step


def test_a_second_ctrl_c_stops_at_once(sr):
    process = start(sr, "--save", "run", before=never_finish_a_step)
    wait_for_line(process, "[a step]")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("SIGINT: stopping after this step")
    process.send_signal(signal.SIGINT)  # torchrun repeats the signal of the terminal
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    errors = process.stderr.read()
    assert errors == "interrupted: --load run continues from the last saved state\n"
    assert state_of(sr.folder("run"))["step"] == 0


def test_a_second_run_in_the_same_folder_is_refused(sr):
    process = start(sr, "--save", "run", "--test_every", 2000, "--epochs", 1)
    wait_for_line(process, "[Epoch 1/")
    files = [path for path in sr.folder("run").rglob("*") if path.name != "log.txt"]
    before = {path: path.stat().st_mtime_ns for path in files}
    for flags in ("--load run", "--save run --reset", "--load run --test_only"):
        status, _, errors = sr.train(*flags.split())
        assert status == 1
        assert "another run writes here (process" in errors
    assert {path: path.stat().st_mtime_ns for path in before} == before
    process.kill()
    process.communicate()
    assert sr("--load", "run", "--test_every", 4, "--cpu")[0] == 0


def ignore_signals():
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def test_a_background_job_of_a_script_does_not_hear_ctrl_c_nor_a_hangup(sr):
    """The shell starts it with SIGINT ignored, and nohup with SIGHUP: they are not for it."""
    flags = ["--test_every", 40, "--print_every", 10, "--epochs", 1]
    process = start(sr, "--save", "run", *flags, before=ignore_signals)
    wait_for_line(process, "[10/")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert state_of(sr.folder("run"))["epoch"] == 1
