"""--threads: as many threads as cores are free, on machines made of files and a clock."""

import os
from types import SimpleNamespace

import pytest
import torch

from helpers import state_of
from runtime import process, threads

N_CORES = 8


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(busy=3, quota="200000 100000") makes a machine of 8 cores."""
    now = [0.0]
    clock = {"perf_counter": lambda: now[0], "process_time": lambda: 0.0, "sleep": lambda s: None}

    def write_stat(busy_seconds):
        lines = ["cpu 0 0 0 0 0 0 0 0 0 0"]
        for core in range(64):  # all cores of the host, of which this process has 8
            lines.append(f"cpu{core} {int(100 * busy_seconds / N_CORES)} 7 0 99 5 0 0 0 0 0")
        (tmp_path / "proc/stat").write_text("\n".join([*lines, "intr 5 0"]))

    def make(busy=0.0, cgroup="0::/", files=()):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in dict(files).items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        write_stat(0)
        threads.watch_cores()
        now[0] += 10.0
        write_stat(10.0 * busy)

    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "time", SimpleNamespace(**clock))
    monkeypatch.setattr(threads, "PROC", tmp_path / "proc")
    monkeypatch.setattr(threads, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "own_cores", lambda: set(range(N_CORES)))
    monkeypatch.setattr(process, "own_cores", lambda: set(range(N_CORES)))
    monkeypatch.setattr(process, "_default_threads", lambda: N_CORES)
    monkeypatch.setattr(threads, "_since_start", None)
    make.chosen = []  # not set: 8 threads on fewer cores would take their time
    monkeypatch.setattr(torch, "set_num_threads", make.chosen.append)
    return make


def first_line(sr, *flags):
    bicubic = "--save run --model Bicubic --test_only --scale 2 --data_test Set5 --cpu".split()
    status, out, err = sr(*bicubic, *flags)
    assert status == 0, err
    return next(line for line in out.splitlines() if line.startswith("run on cpu, "))


V1 = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
V1 |= {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"}
QUOTAS = {
    "none": ("0::/job", {"cpu.max": "max 100000"}),
    "version 2": ("0::/slurm/job", {"slurm/cpu.max": "250000 100000", "cpu.max": "max 100000"}),
    "of a container": ("0::/docker/unseen", {"cpu.max": "250000 100000"}),
    "version 1": ("5:memory:/\n4:cpu,cpuacct:/job\n0::/", V1),
    "below one core": ("0::/", {"cpu.max": "50000 100000"}),
}


@pytest.mark.parametrize(
    ("busy", "quota", "text"),
    [
        (0.0, "none", "8 threads (8 cores)"),
        (0.2, "none", "8 threads (8 cores)"),
        (2.5, "none", "5 threads (8 cores, other processes use 2.5; --threads N overrides)"),
        (8.0, "none", "1 thread (8 cores, other processes use 8.0; --threads N overrides)"),
        (0.0, "version 2", "2 threads (8 cores, the cgroup allows 2.5)"),
        (4.0, "of a container", "2 threads (8 cores, the cgroup allows 2.5)"),
        (0.0, "version 1", "2 threads (8 cores, the cgroup allows 2.5)"),
        (0.0, "below one core", "1 thread (8 cores, the cgroup allows 0.5)"),
    ],
)
def test_free_cores_are_taken_and_the_log_says_how_many(sr, machine, busy, quota, text):
    machine(busy, *QUOTAS[quota])
    assert f", {text}, torch " in first_line(sr)
    assert machine.chosen == [int(text.split()[0])]


def test_a_flag_and_a_variable_win_over_busy_cores(sr, machine, monkeypatch):
    machine(busy=8.0)
    assert ", 3 threads (--threads), " in first_line(sr, "--threads", 3)
    assert "--threads" not in (sr.folder("run") / "config.txt").read_text()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(process, "_default_threads", lambda: 4)  # what torch makes of it
    assert ", 4 threads (OMP_NUM_THREADS), " in first_line(sr, "--reset")


def test_without_proc_all_cores_are_taken(sr, machine, tmp_path):
    machine(busy=8.0)
    (tmp_path / "proc/stat").unlink()
    assert ", 8 threads (8 cores), " in first_line(sr)


def test_ranks_share_the_cores(machine):
    machine(busy=2.0)
    both = [set(range(N_CORES))] * 2
    assert threads.choose_threads(None, 1, both)[0] == 3  # 1 is torchrun's
    apart = [set(range(N_CORES)), set(range(8, 16))]  # as srun binds tasks
    assert threads.choose_threads(None, 1, apart)[0] == 6


@pytest.mark.parametrize(
    ("busy", "cpu", "is_told"), [(4.0, 30, True), (4.0, 70, False), (0.1, 30, False)]
)
def test_threads_that_wait_for_cores_are_told_once(sr, machine, monkeypatch, busy, cpu, is_told):
    machine()
    monkeypatch.setattr(threads, "WATCHED_STEPS", 2)
    monkeypatch.setattr(threads.CoreWatch, "elapsed", lambda self: (10.0, cpu))
    monkeypatch.setattr(threads.CoreWatch, "busy_cores", lambda self, sharing: busy)
    monkeypatch.setattr("trainer.torch.get_num_threads", lambda: 8)
    status, out, err = sr.train("--save", "run", "--epochs", 2, "--threads", 8)
    assert status == 0, err
    hint = "8 threads wait for cores, of which other processes use 4.0 of 8: --threads 4 is likely"
    assert out.count(hint) == is_told
    assert ("wait for cores" in out) == is_told


def test_a_resumed_run_keeps_its_threads_on_which_its_bits_depend(sr, machine):
    machine(busy=5.0)
    assert sr.train("--save", "run", "--epochs", 1)[0] == 0
    state = state_of(sr.folder("run"))
    state["flags"]["threads"] = 4
    torch.save(state, sr.folder("run") / "model/state.pt")
    kept = "4 threads, as before (--threads N overrides)"
    assert kept in sr("--load", "run", "--epochs", 2, "--cpu")[1]
    assert machine.chosen == [3, 3, 4]
    assert "as before" not in sr("--load", "run", "--epochs", 3, "--cpu", "--threads", 2)[1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity")
def test_the_affinity_is_that_of_the_process():
    assert threads.own_cores() == os.sched_getaffinity(0)
