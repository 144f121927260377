"""What starts the ranks of a run: --n_GPUs, torchrun, or srun of SLURM.

Each rank has torchrun's environment variables; those of srun are translated to them.
"""

import logging
import os
import re
import signal
import sys
from pathlib import Path

from runtime.distributed import world_size
from runtime.files import UserError, print_error

MAIN = Path(__file__).resolve().parent.parent / "main.py"
SINGLE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # values of a run of one process


def read_environment(argv):
    """Complete a rank's environment variables; refuse a part of them, as leftovers in a shell."""
    # half of them would make a run that writes nothing, or waits
    env = os.environ
    found = [name for name in SINGLE if name in env]
    missing = [name for name in (*SINGLE, "MASTER_ADDR", "MASTER_PORT") if name not in env]
    if found and not missing:
        _check_ranks()
    elif any(env[name] != SINGLE[name] for name in found):
        found, missing = (" and ".join(names) for names in (found, missing))
        raise UserError(
            f"the environment has {found} without {missing}: start several processes with torchrun "
            f"or --n_GPUs, or unset {found} for a single one"
        )
    else:
        _read_slurm(any(word.startswith("--n_GPUs") for word in argv))


def _check_ranks():
    values = [os.environ[name] for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE")]
    are_numbers = all(re.fullmatch(r"\d{1,9}", value) for value in values)
    if not are_numbers or not int(values[0]) <= int(values[1]) < int(values[2]):
        words = " ".join(f"{name}={os.environ[name]}" for name in SINGLE)
        raise UserError(f"the environment has {words}: RANK must be from 0 to WORLD_SIZE - 1")


def _first_host(nodes):
    """Return the first host of SLURM's list: node01 of node[01-03,07],gpu5."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _tasks_of_node(counts, node):
    """Return element `node` of SLURM's list 2(x3),1, which is 2, 2, 2, 1."""
    tasks = []
    for count, repeats in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        tasks += [int(count)] * int(repeats or 1)
    return tasks[node]


def _read_slurm(has_n_gpus):
    """Take the place of this process from srun, if it has started several."""
    env = os.environ
    n_tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1")
    # srun alone sets SLURM_STEP_ID. A batch script, too, has SLURM_PROCID, and may use --n_GPUs
    is_batch_script = has_n_gpus and "SLURM_STEP_ID" not in env
    if n_tasks == "1" or "SLURM_PROCID" not in env or is_batch_script:
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            if int(env.get(name, 1)) > 1 and n_tasks == "1":
                raise UserError(f"mpirun has started {env[name]} processes: use torchrun or srun")
        return
    names = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    nodes = next((env[name] for name in names if name in env), "")
    if "SLURM_LOCALID" not in env or not (nodes or "MASTER_ADDR" in env):
        raise UserError(
            f"srun has started {n_tasks} processes, and SLURM_LOCALID or SLURM_NODELIST is missing"
            ": use torchrun, or --n_GPUs in a single task"
        )
    is_one_node = env.get("SLURM_NNODES", "1" if not re.search(r"[\[,]", nodes) else "") == "1"
    counts = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE")
    node = int(env.get("SLURM_NODEID", 0))
    env |= {"RANK": env["SLURM_PROCID"], "LOCAL_RANK": env["SLURM_LOCALID"], "WORLD_SIZE": n_tasks}
    env["LOCAL_WORLD_SIZE"] = str(_tasks_of_node(counts, node)) if counts else "1"
    env.setdefault("MASTER_ADDR", "127.0.0.1" if is_one_node else _first_host(nodes))
    job = int(env.get("SLURM_JOB_ID", 0)) + 1009 * int(env.get("SLURM_STEP_ID", 0))
    env.setdefault("MASTER_PORT", str(10_000 + job % 20_000))  # below the ports of clients
    _check_ranks()


def needs_launch(n_gpus):
    """Return whether this process must start those of --n_GPUs."""
    if n_gpus == 1:
        return False
    if sys.platform == "win32":
        raise UserError(f"--n_GPUs {n_gpus} must be 1 on Windows, which has no NCCL: use WSL 2")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", n_gpus))
    if world_size() > 1 and started != n_gpus:
        raise UserError(
            f"--n_GPUs {n_gpus} must be left out if torchrun or srun starts the processes, here "
            f"{started} on this machine"
        )
    return world_size() == 1


def launch(argv, processes, name):
    """Run the program for experiment `name` in several processes; return the exit status."""
    # imported here: they take a second, which a run of one process saves
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the message is ours
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():  # ranks take OMP_NUM_THREADS=1 for torchrun's own
        argv = ["--threads", threads, *argv]
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    # a signal that is ignored from the start, as by nohup, stays ignored
    signals = [n for n in names if signal.getsignal(getattr(signal, n)) != signal.SIG_IGN]
    meeting = {"run_id": str(os.getpid()), "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    options = meeting | {"max_restarts": 0, "signals_to_handle": ",".join(signals)}
    config = LaunchConfig(1, 1, processes, **options)  # on one node
    try:
        elastic_launch(config, sys.executable)("-u", str(MAIN), *argv)
    except ChildFailedError as error:
        failed_rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode  # the process has printed its message
        died = signal.Signals(-failure.exitcode).name
        message = f"error: process {failed_rank} of {processes} died ({died})"
        print_error(f"{message}: --load {name} continues the run")
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0
