"""How many threads to compute with: one for each free core.

The threads of an operation wait for each other at its end. A single one that waits for a core of
another process stops them all, so that one thread too many makes a step 10 times slower.
"""

# Only the standard library: the cores are watched while torch is imported, which costs no time.
import contextlib
import math
import os
import time
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# a training is judged after as many steps and at least 10 s, or after a minute: it may be very slow
WATCHED_STEPS, MIN_SECONDS, MAX_SECONDS = 300, 10.0, 60.0
SLOW = 1.5  # wall time over CPU time per thread


def own_cores():
    """Return the set of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _read(path):
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _quota_of(folder):
    """Return the cores that one cgroup may use, inf for no limit."""
    words = _read(folder / "cpu.max").split()  # version 2: "QUOTA PERIOD" or "max PERIOD"
    if not words:  # version 1: -1 for no limit
        words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)
        if quota > 0:
            return quota / period
    return math.inf


def cgroup_quota():
    """Return the cores that the cgroup of this process and those above it allow; inf for all."""
    quotas = []
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in {CGROUP / "unified", CGROUP / "cpu", CGROUP / controllers}:
            folder = root / path.strip("/")  # a container may not see it, only `root`
            above = [parent for parent in folder.parents if parent.is_relative_to(CGROUP)]
            quotas += map(_quota_of, (folder, *above))
    return min(quotas, default=math.inf)


def _busy_seconds():
    """Return {core: seconds in which it worked since the start of the machine}; Linux alone."""
    busy = {}
    for line in _read(PROC / "stat").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu":
            # niced processes count, too: nice acts only within a session (autogroup)
            user, nice, system, _, _, irq, softirq, steal = map(int, values[:8])
            ticks = user + nice + system + irq + softirq + steal
            busy[int(name[3:])] = ticks / os.sysconf("SC_CLK_TCK")
    return busy


class CoreWatch:
    """How busy cores and this process have been since an instant."""

    def __init__(self):
        self._start = time.perf_counter(), time.process_time(), _busy_seconds()

    def elapsed(self):
        """Return (wall time, CPU time of all threads of this process) in seconds."""
        wall, cpu, _ = self._start
        return time.perf_counter() - wall, time.process_time() - cpu

    def busy_cores(self, sharing):
        """Return the mean number of cores that other processes have kept busy.

        `sharing` is {core: number of ranks that share it}, whose own work does not count.
        """
        wall, cpu = self.elapsed()
        before, now = self._start[2], _busy_seconds()
        cores = sharing.keys() & before.keys() & now.keys()
        busy = sum((now[core] - before[core]) / sharing[core] for core in cores)
        return max(0.0, (busy - cpu) / wall)


_since_start = None


def watch_cores():
    """Start to watch the cores, for `choose_threads`."""
    global _since_start
    _since_start = CoreWatch()


def _free_cores(cores, quota, busy):
    # a core that others use for less than a third of the time counts as free
    return max(1, int(min(quota, cores - busy + 1 / 3)))


def choose_threads(requested, default, cores_of_ranks):
    """Return (number of threads, text for the log).

    `requested` is --threads or None, `default` the number that torch takes by itself, and
    `cores_of_ranks` own_cores() of each rank on this machine.
    """
    n_ranks = len(cores_of_ranks)
    # torchrun sets 1 for its processes
    is_set = [name for name in VARIABLES if os.environ.get(name) and (n_ranks == 1 or default > 1)]
    if requested or is_set:
        count, reason = requested or default, "--threads" if requested else is_set[0]
    else:
        sharing = {core: sum(core in cores for cores in cores_of_ranks) for core in own_cores()}
        cores, quota = sum(1 / n for n in sharing.values()), cgroup_quota() / n_ranks
        watch = _since_start or CoreWatch()
        time.sleep(max(0.0, 0.1 - watch.elapsed()[0]))  # /proc/stat counts hundredths
        busy = watch.busy_cores(sharing)
        most = min(default if n_ranks == 1 else len(sharing), _free_cores(cores, quota, 0))
        count = min(most, _free_cores(cores, quota, busy))
        reason = f"{cores:.3g} core{'s' if cores > 1 else ''}"
        if quota < cores:
            reason += f", the cgroup allows {quota:.3g}"
        if count < most:
            reason += f", other processes use {busy:.1f}; --threads N overrides"
    return count, f"{count} thread{'s' if count > 1 else ''} ({reason})"


class ThreadWatch:
    """Tells once if the threads of a training wait for cores."""

    def __init__(self, n_threads):
        self._n_threads, self._steps, self._watch = n_threads, 0, CoreWatch()

    def after_step(self):
        """Return a hint, once, if the threads have waited for cores; else None."""
        self._steps += 1
        wall, cpu = self._watch.elapsed()
        is_soon = wall < MIN_SECONDS or (self._steps < WATCHED_STEPS and wall < MAX_SECONDS)
        if self._n_threads == 1 or is_soon:
            return None
        sharing = dict.fromkeys(own_cores(), 1)
        busy = self._watch.busy_cores(sharing)
        self._steps, self._watch = 0, CoreWatch()
        free = _free_cores(len(sharing), cgroup_quota(), busy)
        if free >= self._n_threads or wall < SLOW * cpu / self._n_threads:
            return None
        hint = f"WARNING: {self._n_threads} threads wait for cores, of which other processes use "
        self._n_threads = 1  # said once
        return f"{hint}{busy:.1f} of {len(sharing)}: --threads {free} is likely faster"
