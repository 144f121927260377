"""The process: signals, memory, the compiler, and what a run was made with."""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from runtime import distributed
from runtime.files import UserError, host_id
from runtime.threads import VARIABLES, choose_threads, own_cores

VERSION = "1.0.0"
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "scikit-image", "imageio", "Pillow", "scipy")


def git_commit():
    """Return the commit of the program, "(dirty)" if tracked files have changed; or "unknown"."""
    if not (ROOT / ".git").exists():
        return "unknown"
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip().replace("-dirty", " (dirty)")
    return "unknown"


def provenance(device):
    """Yield lines that say when, with which commit, packages and device a run was started."""
    versions = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    yield f"started {time.strftime('%Y-%m-%d %H:%M:%S')}"
    yield f"version {VERSION}"
    yield f"commit {git_commit()}"
    yield f"Python {platform.python_version()}, {', '.join(versions)}"
    yield f"device {device.type}, {name}"


def gpu_problem():
    """Return why this process cannot use the GPU, in a sentence; "" if it can or has none."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        # sm_86 runs on 8.6 and 8.9; compute_90 is compiled at the start for 9.0 and later
        kernels = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
        for kind, first, second in kernels:  # none for AMD, which names them otherwise
            is_older = (int(first), int(second)) <= (major, minor)
            if is_older and (kind == "compute" or int(first) == major):
                return ""
        if not kernels:
            return ""
        return (
            f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (compute "
            f"capability {major}.{minor}): install a build of torch for another CUDA version, see "
            "pytorch.org"
        )
    if torch.version.cuda:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return str(error).split(". ")[0].splitlines()[0]
        return "CUDA is not available"
    if Path("/proc/driver/nvidia/version").exists() and not torch.version.hip:
        return "this torch is built for the CPU alone: install a build for CUDA, see pytorch.org"
    return ""


_default_threads = functools.cache(torch.get_num_threads)  # asked for before any change


def set_threads(requested):
    """Set the threads of torch to --threads or the free cores; return a text for the log."""
    cores = distributed.all_gather_object((host_id(), own_cores()))
    here = [own for host, own in cores if host == host_id()]
    count, text = choose_threads(requested, _default_threads(), here)
    torch.set_num_threads(count)
    return text


def keep_threads(requested, former, log):
    """Resume with the former number of threads, on which the last bits of a sum depend."""
    is_chosen = requested or any(os.environ.get(name) for name in VARIABLES)
    is_fit = isinstance(former, int) and 1 <= former <= len(own_cores())
    if is_fit and not is_chosen and former != torch.get_num_threads():
        torch.set_num_threads(former)
        log(f"{former} thread{'s' if former > 1 else ''}, as before (--threads N overrides)")


def disable_malloc_trim():
    """Keep freed memory in the process for its next tensors (glibc only)."""
    # the system has to clear the pages of each new block; docs/performance.md has the gain
    mallopt = sys.platform.startswith("linux") and getattr(ctypes.CDLL(None), "mallopt", None)
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    for option in (-3, -1) if mallopt else ():
        mallopt(option, 2**31 - 1)


def is_out_of_memory(error):
    """Return whether an error means that memory of the CPU or accelerator is exhausted."""
    # torch has no type for it on the CPU; cuDNN and cuBLAS report it in a RuntimeError
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("allocate memory", "out of memory", "ALLOC_FAILED")
    )


def is_accelerator_out_of_memory(error):
    """Return whether the memory of an accelerator is exhausted, so that smaller tiles may fit."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def available_bytes(path="/proc/meminfo"):
    """Return the main memory that is available, or None if Linux does not tell."""
    try:
        with open(path, encoding="utf-8") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def pip_install(*packages):
    """Return the command that installs packages for the Python that runs this program."""
    pip, here = Path(sys.executable).with_name("pip"), Path.cwd()
    name = pip.relative_to(here) if pip.is_relative_to(here) else pip
    command = name if pip.is_file() else f"{sys.executable} -m pip"
    return f"{command} install {' '.join(packages)}"


def require_compiler(device):
    """Raise UserError if torch.compile does not work on the device."""
    try:
        torch.compile(lambda x: (x * 2).relu())(torch.ones(8, device=device))
    except Exception as error:  # a compiler, its headers or triton may be missing
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or [repr(error)]
        raise UserError(
            f"--compile needs a C++ compiler, on CUDA also triton: {errors[0][:200]}. Install it "
            "(Debian and Ubuntu: apt-get install g++), set CXX, or leave --compile out"
        ) from error


# In rising priority. Clusters send SIGUSR1 or SIGUSR2 before a time limit; a closed terminal
# sends SIGHUP. SIGINT is last: torchrun sends SIGTERM to its processes when it gets a SIGINT.
STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGUSR2", "SIGUSR1", "SIGHUP", "SIGTERM", "SIGINT")
    if hasattr(signal, name)
]


class Stopped(BaseException):
    """A signal that ends the program, not an error; `is_saved`: the training's state is saved."""

    def __init__(self, signum, is_saved=False):
        super().__init__(signal.Signals(signum).name)
        self.signum, self.is_saved = signum, is_saved


def raise_on_signals():
    """Return a context in which stop signals raise Stopped, as SIGINT raises KeyboardInterrupt."""

    def stop(signum, _frame):
        raise Stopped(signum)

    return _handled_by(stop, STOP_SIGNALS[:-1])


@contextlib.contextmanager
def _handled_by(handler, signals):
    """Handle signals during a `with` block, which Python allows in the main thread alone."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        # a signal that is ignored from the start stays ignored: SIGINT in a background job of a
        # script, SIGHUP under nohup
        heard = [s for s in signals if signal.getsignal(s) != signal.SIG_IGN]
        former = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield
    finally:
        for signum, own in former.items():
            signal.signal(signum, own)


class StopRequest:
    """Remembers a stop signal of a `listen` block as `signum`; 0 before there is one.

    `name`, that of the experiment, is for messages. A second SIGINT ends the process at once. One
    that follows within a second counts as the first: torchrun forwards a signal to its processes
    that the terminal has already sent to them.
    """

    def __init__(self, name, verbose):
        self.name, self.verbose = name, verbose
        self.signum, self._since = 0, 0.0

    def listen(self):
        """Return the context in which stop signals are remembered."""
        return _handled_by(self._on_signal, STOP_SIGNALS)

    def _on_signal(self, signum, _frame):
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
            name = signal.Signals(signum).name
            self._print(f"{name}: stopping after this step; Ctrl-C again stops at once")
        elif signum == signal.SIGINT and now - self._since > 1:
            self._print(f"interrupted: --load {self.name} continues from the last saved state")
            os._exit(130)

    def _print(self, text):
        if self.verbose:  # not by sys.stderr, in the middle of whose write the signal may come
            with contextlib.suppress(OSError):
                os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))

    def request(self, signum=signal.SIGTERM):
        """Ask to stop as if a signal had come."""
        self.signum = self.signum or signum


def ignore_signals_in_worker():
    """Leave signals to the main process, which has 30 seconds after SIGTERM to save."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


class WorkerErrors:
    """Allow torch to report dead data loader workers in a `with` block only.

    torch's handler of SIGCHLD raises at any line of the main thread: in the middle of a step, where
    the training state must not be saved. It is needed while a batch is awaited: a worker that was
    killed while it sent one leaves the main process waiting for the rest.
    """

    def __init__(self):
        self._handler = None  # torch sets it when it starts workers

    def __enter__(self):
        if self._handler:
            self.restore()
            self._handler(signal.SIGCHLD, None)  # raises if a worker has died since the last block

    def __exit__(self, *_):
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
            self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def restore(self):
        """Install torch's handler again."""
        if self._handler:
            signal.signal(signal.SIGCHLD, self._handler)
