"""Runs that srun, torchrun or leftover environment variables start, and scripts/cluster."""

import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import slurm
from helpers import ForkedProgram, state_of
from runtime import distributed, process
from runtime.launcher import _first_host

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PMI", "OMPI"))}


@pytest.fixture
def sbatch(sr, tmp_path):
    """sbatch(n_tasks, *flags) runs train.sbatch once: (exit status, output, what is requeued)."""
    path = f"{slurm.install(tmp_path / 'bin')}:{os.environ['PATH']}"
    requeued = tmp_path / "requeued"

    def submit(n_tasks, *flags, n_nodes=1, stop_after=""):
        requeued.unlink(missing_ok=True)
        variables = {"PATH": path, "REQUEUED": requeued, "STOP_AFTER": stop_after}
        variables |= {"PYTHON": sys.executable, "SLURM_NTASKS": n_tasks, "SLURM_NNODES": n_nodes}
        variables |= {"SLURM_JOB_ID": os.getpid(), "SLURM_SUBMIT_DIR": ROOT}
        # of a notebook, and without its package here
        variables |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        done = subprocess.run(
            ["bash", ROOT / "scripts/cluster/train.sbatch", *sr.argv(*flags)[1:]],
            env=CLEAN | {name: str(value) for name, value in variables.items()},
            capture_output=True,
            text=True,
            timeout=900,
        )
        text = requeued.read_text() if requeued.exists() else None
        return done.returncode, done.stdout + done.stderr, text

    return submit


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_job_is_stopped_requeued_and_continued_on_other_numbers_of_processes(sr, sbatch):
    flags = ("--save", "job", "--test_every", 60, "--print_every", 5, "--threads", 1)
    first = ForkedProgram(sr.argv(*flags, "--epochs", 1)[1:])
    assert "PSNR" in first.communicate(timeout=60)[0]
    # two machines of one task
    flags = (*flags, "--epochs", 2, "--pre_train", "start.pt")
    status, out, requeued = sbatch(2, *flags, n_nodes=2, stop_after="[10/60]")
    assert (status, requeued) == (138, f"requeue {os.getpid()}"), out
    assert "Resumed after epoch 1" in out
    assert ", 2 processes, " in out
    assert out.count("Stopped by SIGUSR1") == 1, "rank 0 alone writes the log"
    step = state_of(sr.folder("job"))["step"]
    assert step >= 10
    status, out, requeued = sbatch(1, *flags)
    assert (status, requeued) == (0, None), out
    assert f"Resumed after epoch 1 and {step} steps" in out
    assert state_of(sr.folder("job"))["epoch"] == 2
    assert (sr.folder("job") / "loss.png").is_file()  # in spite of MPLBACKEND
    assert "start.pt must be an existing file" in sbatch(1, *flags, "--reset")[1]  # a new run


WHOLE = {"LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "the environment has WORLD_SIZE without RANK and LOCAL_RANK and "),
        ({"RANK": "1"}, "the environment has RANK without LOCAL_RANK and WORLD_SIZE and "),
        ({"LOCAL_RANK": "3"}, "or unset LOCAL_RANK for a single one"),
        (WHOLE | {"RANK": "2", "WORLD_SIZE": "2"}, "RANK must be from 0 to WORLD_SIZE - 1"),
        (WHOLE | {"RANK": "a", "WORLD_SIZE": "2"}, "RANK must be from 0 to WORLD_SIZE - 1"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, "mpirun has started 8 processes: use torchrun or srun"),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, "srun has started 8 processes, and SLURM_"),
    ],
)
def test_half_an_environment_is_one_sentence(sr, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("main.time.sleep", lambda seconds: None)
    status, out, err = sr.train("--save", "run")
    assert (status, out) == (2, "")
    assert message in err
    assert not sr.folder("run").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_NTASKS": "8"},  # a shell of salloc
    ],
)
def test_leftovers_of_a_single_process_do_not_matter(sr, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bicubic = ("--model", "Bicubic", "--test_only", "--scale", 2, "--data_test", "Set5", "--cpu")
    status, out, err = sr(*bicubic, "--save", "run")
    assert status == 0, err
    assert "PSNR" in out


@pytest.mark.slow
def test_n_gpus_in_a_batch_script_starts_its_own_processes(sr):
    batch = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    command = [sys.executable, *sr.argv("--save", "run", "--epochs", "1", "--n_GPUs", "2")]
    env = CLEAN | batch | {"SLURM_NODELIST": "n1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert "run_id" not in done.stderr


def test_n_gpus_is_refused_beside_another_launcher_and_on_windows(sr, monkeypatch):
    for name, value in (WHOLE | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    status, _, err = sr.train("--save", "run", "--n_GPUs", 4)
    assert status == 2
    assert "--n_GPUs 4 must be left out if torchrun or srun starts the processes, here 2" in err
    monkeypatch.setattr(sys, "platform", "win32")
    status, _, err = sr.train("--save", "run", "--n_GPUs", 2)
    assert status == 2
    assert "--n_GPUs 2 must be 1 on Windows" in err


def test_a_rank_that_stays_alone_says_for_whom_it_waited(sr, monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", datetime.timedelta(seconds=2))
    env = WHOLE | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29471"}
    process = ForkedProgram(sr.argv("--save", "run")[1:], env)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "rank 0 of 2 has not met the others at localhost:29471" in err
    assert "Traceback" not in err
    assert not sr.folder("run").exists()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node01", "node01"),
        ("node[01-03,07],gpu5", "node01"),
        ("gpu5,node[01-03]", "gpu5"),
        ("r[1-2]n[03,05]-ib", "r1n03-ib"),
        ("[10-12].cluster.org", "10.cluster.org"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert _first_host(nodes) == first


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for a signal")
def test_ranks_save_and_end_if_sigusr1_kills_torchrun(sr):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    flags = ("--save", "run", "--epochs", 1, "--test_every", 400, "--print_every", 5)
    process = subprocess.Popen(
        [*command, *sr.argv(*flags)],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    next(line for line in process.stdout if line.startswith("[10/"))
    process.send_signal(signal.SIGUSR1)
    out = process.stdout.read()  # until the ranks, too, have ended
    assert process.wait(60) == -signal.SIGUSR1
    assert "Stopped by SIGTERM" in out
    time.sleep(0.1)
    assert state_of(sr.folder("run"))["step"] >= 10


TWO_RANKS = WHOLE | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3699, unhandled system error (run with NCCL_DEBUG=INFO)"
NCCL += "\nncclSystemError: System call failed.\nLast error:\n"
SHM = "Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NCCL + SHM, f"{SHM}: /dev/shm is too small; docker run --shm-size=1g, or --ipc=host"),
        (NCCL + "Duplicate GPU detected : rank 0", "be reached: Duplicate GPU detected : rank 0"),
        ("[enforce fail] gloo/transport/tcp: Connection closed by peer", "Connection closed by"),
    ],
)
def test_the_words_of_nccl_are_shown(sr, monkeypatch, error, message):
    def fail(*_):
        raise RuntimeError(error)

    for name, value in TWO_RANKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("runtime.distributed._join", lambda backend: None)
    monkeypatch.setattr("main.run", fail)
    status, _, err = sr.train("--save", "run")
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1


def driver_is_too_old():
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Update")


VOLTA = {
    "cuda.is_available": lambda: True,
    "cuda.get_device_capability": lambda: (7, 0),
    "cuda.get_device_name": lambda: "V100",
    "cuda.get_arch_list": lambda: ["sm_75", "sm_80", "sm_90", "compute_120"],
}


@pytest.mark.parametrize(
    ("patches", "reason"),
    [
        ({}, None),
        ({"version.cuda": "13.0", "cuda.init": driver_is_too_old}, "The NVIDIA driver on your "),
        (VOLTA, f"torch {torch.__version__} has no kernels for V100 (compute capability 7.0): "),
    ],
)
def test_the_log_says_why_no_gpu_is_used(sr, monkeypatch, patches, reason):
    for name, value in patches.items():
        monkeypatch.setattr(f"torch.{name}", value)
    bicubic = ("--model", "Bicubic", "--test_only", "--scale", 2, "--data_test", "Set5")
    status, out, err = sr(*bicubic, "--save", "run")
    assert status == 0, err
    assert "run on cpu, " in out
    assert (f"No GPU is used: {reason}" in out) if reason else ("No GPU is used" not in out)
    assert "No GPU" not in sr(*bicubic, "--save", "run2", "--cpu")[1]


def test_a_gpu_of_a_minor_version_uses_the_kernels_of_its_major_version(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "GPU")
    for capability, names, is_usable in [
        ((8, 9), ["sm_80", "sm_86"], True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 4), ["gfx942"], True),
    ]:
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda c=capability: c)
        monkeypatch.setattr("torch.cuda.get_arch_list", lambda n=names: n)
        assert (process.gpu_problem() == "") == is_usable, (capability, names)
