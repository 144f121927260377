"""Several processes on one machine or many: who this process is, and what all of them agree on.

`torchrun --nproc_per_node=N src/main.py ...` starts N processes (ranks) on each machine, `--n_GPUs N` does so on this one.
Each holds the whole network and takes its part of each batch. Without them there is one rank and torch.distributed is not used.
"""

import contextlib
import datetime
import logging
import os
import signal
import sys

import torch
import torch.distributed as dist

from runtime.errors import UserError

TIMEOUT = datetime.timedelta(hours=3)  # rank 0 may decode a large data set while the others wait


def _env_int(name, default):
    return int(os.environ.get(name, default))


def rank():
    """Give the number of this process among all, from 0."""
    return _env_int("RANK", 0)


def world_size():
    """Give the number of processes."""
    return _env_int("WORLD_SIZE", 1)


def local_rank():
    """Give the number of this process among those of its machine, from 0."""
    return _env_int("LOCAL_RANK", 0)


def local_world_size():
    """Give the number of processes on this machine."""
    return _env_int("LOCAL_WORLD_SIZE", 1)


def is_main_process():
    """Tell whether this is rank 0, the only one that writes."""
    return rank() == 0


def is_started_by_torchrun():
    """Tell whether torchrun, or --n_GPUs, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class RankFailedError(Exception):
    """Another process of the run has ended, or cannot be reached."""


@contextlib.contextmanager
def process_group(device):
    """Join the other processes for the time of a `with` block: nccl between GPUs, gloo between CPUs.

    Raises:
        UserError: the device has no such engine.
        RankFailedError: one of them ended before its time.
    """
    if world_size() == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes need CUDA or the CPU (--cpu), not {device.type}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif os.environ.get("OMP_NUM_THREADS", "1") == "1":  # torchrun sets 1, which leaves cores idle
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world_size()))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT
    )
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(name in text for name in ("gloo", "Gloo", "NCCL", "c10d", "TCPStore")):
            raise
        raise RankFailedError(text.splitlines()[0][:200]) from error
    dist.destroy_process_group()  # not after an error: the others may be gone, and waiting for them would not end


def exit_process(status):
    """End this process with an exit status, at once if it is one of several.

    A thread of gloo may still be letting go of a tensor, which takes Python's lock; in an interpreter that is being taken
    down, that aborts the process: seen once in some ten runs on a busy machine.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def rank_range(count):
    """Give (first, last + 1) of the consecutive items, of `count`, that fall to this rank; parts differ by one at most."""
    return rank() * count // world_size(), (rank() + 1) * count // world_size()


def all_reduce_sum(tensor):
    """Give the sum of a tensor over all ranks, the same bits on each; the tensor is changed."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather_object(value):
    """Give the list of what each rank gave, by rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def local_main_first():
    """Let one process of each machine run a `with` block before the others: what it writes to disk is there for them."""
    if world_size() > 1 and local_rank() > 0:
        dist.barrier()
    yield
    if world_size() > 1 and local_rank() == 0:
        dist.barrier()


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. Each rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        return all_reduce_sum(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient):
        return _SumOverRanks.apply(gradient)


def rank_offset(count):
    """Give (first, total): where this rank's `count` of images are among those of all ranks, by rank; one exchange."""
    if world_size() == 1:
        return 0, count
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = count
    counts = all_reduce_sum(counts).tolist()
    return sum(counts[: rank()]), sum(counts)


def all_gather_batch(x, offset=None):
    """Give the values of the images of all ranks, by rank, the same bits on each; the gradient goes to where they came from.

    Args:
        x: (B, ...), those of this rank's images.
        offset: their `rank_offset`, if that is known.

    Returns:
        (total, ...)
    """
    if world_size() == 1:
        return x
    first, total = offset or rank_offset(len(x))
    before, after = (x.new_zeros(count, *x.shape[1:]) for count in (first, total - first - len(x)))
    return _SumOverRanks.apply(torch.cat([before, x, after]))


def draw_for_rank(count, make):
    """Give what `make(total)` gives for the images of all ranks, of which this rank has `count`, to those of this rank.

    What is drawn at random for each image is so the same as in one process (without --split_batch, whose parts are cut from
    the images of each rank).
    """
    first, total = rank_offset(count)
    return make(total)[first : first + count]


def all_reduce_gradients(parameters):
    """Replace gradients by their sum over ranks, in one exchange."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = all_reduce_sum(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def launch(argv, processes, name):
    """Start the program in several processes on this machine by torchrun's engine; gives the exit status.

    Args:
        argv: the flags.
        processes: their number.
        name: of the experiment, for the message.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(
        logging.CRITICAL
    )  # what it would say is said below
    one_machine = {
        "min_nodes": 1,
        "max_nodes": 1,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
    }
    config = LaunchConfig(
        **one_machine, nproc_per_node=processes, max_restarts=0, monitor_interval=0.2
    )
    program = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "main.py")
    try:
        elastic_launch(config, sys.executable)("-u", program, *argv)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode  # it has said why
        died = signal.Signals(-failure.exitcode).name
        print(
            f"error: process {number} of {processes} died ({died}): --load {name} goes on",
            file=sys.stderr,
        )
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0
