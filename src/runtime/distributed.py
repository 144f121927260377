"""Several processes (ranks), started by torchrun, srun or --n_GPUs.

Each holds the whole network and takes its part of each batch. One rank needs no torch.distributed.
"""

import contextlib
import ctypes
import datetime
import functools
import itertools
import os
import signal
import sys

import torch
import torch.distributed as dist

from runtime.files import UserError

TIMEOUT = datetime.timedelta(minutes=30)
JOIN_TIMEOUT = datetime.timedelta(minutes=5)


def _env_int(name, default):
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default  # `read_environment` refuses others


def rank():
    """Return the index of this process among all, from 0."""
    return _env_int("RANK", 0)


def world_size():
    """Return the number of processes."""
    return _env_int("WORLD_SIZE", 1)


def local_rank():
    """Return the index of this process on its machine, from 0."""
    return _env_int("LOCAL_RANK", 0)


def local_world_size():
    """Return the number of processes on this machine."""
    return _env_int("LOCAL_WORLD_SIZE", 1)


def is_task_of_srun():
    """Return whether srun has started this process, which may then see its own GPU alone."""
    return "SLURM_LOCALID" in os.environ


def is_main_process():
    """Return whether this is rank 0, the only one that writes files."""
    return rank() == 0


class RankFailedError(Exception):
    """The ranks cannot exchange tensors, most often since one has ended; the message says more."""


@contextlib.contextmanager
def process_group(device):
    """Join the other ranks during a `with` block: nccl between GPUs, gloo between CPUs.

    Raises RankFailedError if another rank has ended during the block, or never came.
    """
    if world_size() == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes need CUDA or the CPU (--cpu), not {device.type}")
    if device.type == "cuda":
        if not dist.is_nccl_available():
            raise UserError("several GPUs need NCCL, which this torch lacks: Linux or WSL 2 has it")
        torch.cuda.set_device(device)
    if sys.platform.startswith("linux") and "TORCHELASTIC_RUN_ID" in os.environ:
        # if the launcher dies, this rank is stopped, too: it would run on alone
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG of prctl.h
    _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(name in text for name in ("gloo", "Gloo", "NCCL", "c10d", "TCPStore")):
            raise
        raise RankFailedError(_explain(text)) from error
    # not after an error: the other ranks may have ended, and waiting for them would not end
    dist.destroy_process_group()


def _join(backend):
    """Meet the other ranks, for a shorter time than an exchange may take."""
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=JOIN_TIMEOUT))
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend, timeout=TIMEOUT, store=store, rank=rank(), world_size=world_size()
        )
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RankFailedError(
            f"rank {rank()} of {world_size()} has not met the others at {where}: start all of them "
            f"(torchrun, srun, --n_GPUs), or unset RANK and WORLD_SIZE; {_explain(str(error))}"
        ) from error


def _explain(text):
    """Return the cause in an error of gloo or NCCL, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Last error:" in lines:  # NCCL's own words follow, after two lines about where it was
        lines = lines[lines.index("Last error:") + 1 :] or lines
    cause = " ".join(lines[:2])[:300]
    if "/dev/shm" in text or "shared memory" in text:
        cause += ": /dev/shm is too small; docker run --shm-size=1g, or --ipc=host, enlarges it"
    return cause


def exit_process(status):
    """End this process with an exit status.

    One of several ranks ends at once: a gloo thread may still release a tensor, which needs
    Python's lock, and this aborts an interpreter that is shutting down.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def rank_range(count):
    """Return (start, end) of this rank's part of `count` items; parts differ by one at most."""
    return rank() * count // world_size(), (rank() + 1) * count // world_size()


def all_reduce_sum(tensor):
    """Return the sum of a tensor over all ranks, bit-identical on each; changes the tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather_object(value):
    """Return the list of the values of all ranks, in rank order."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def in_turn(is_first):
    """Run a `with` block on the ranks that are first, then on the others, which wait for hours."""
    if world_size() == 1:
        yield
        return
    patient = _patient_group()  # by all ranks at once: building it has a shorter timeout
    if not is_first:
        dist.barrier(patient)
    yield
    if is_first:
        dist.barrier(patient)


@functools.cache  # a group holds sockets and threads
def _patient_group():
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(hours=3))


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks. Each rank's loss depends on it, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        return all_reduce_sum(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient):
        return _SumOverRanks.apply(gradient)


_part_sizes = None  # images of each rank in the part of the batch that is being worked on


@contextlib.contextmanager
def batch_part(batch_size, index, n_parts):
    """Tell `rank_offset` the images of each rank during a `with` block.

    The ranks divide a batch by `rank_range`, and their images by `tensor_split` into n_parts parts.
    """
    global _part_sizes
    ends = [(r + 1) * batch_size // world_size() for r in range(world_size())]
    images = [end - start for start, end in itertools.pairwise([0, *ends])]  # of each rank
    _part_sizes = [n // n_parts + (index < n % n_parts) for n in images]
    try:
        yield
    finally:
        _part_sizes = None


def rank_offset(count):
    """Return (offset, total): images of lower ranks and of all ranks; `count` are this rank's."""
    if world_size() == 1:
        return 0, count
    counts = _part_sizes
    if counts is None:  # outside of `batch_part`: one exchange
        counts = torch.zeros(world_size(), dtype=torch.int64)
        counts[rank()] = count
        counts = all_reduce_sum(counts).tolist()
    assert counts[rank()] == count
    return sum(counts[: rank()]), sum(counts)


def all_gather_batch(x, offset=None):
    """Gather a batch from all ranks, in rank order: (B, ...) to (B of all, ...), the same bits.

    Differentiable: each rank receives the gradient of its own images, summed over the losses of all
    ranks. If each rank computes the same loss of all images, divide it by `world_size()` before
    backward. `offset` is the result of `rank_offset(B)`, if it is known.
    """
    if world_size() == 1:
        return x
    first, total = offset or rank_offset(len(x))
    before = x.new_zeros(first, *x.shape[1:])
    after = x.new_zeros(total - first - len(x), *x.shape[1:])
    return _SumOverRanks.apply(torch.cat([before, x, after]))


def draw_for_rank(count, draw):
    """Draw random values for the global batch and return those of this rank's `count` images.

    Any number of ranks sees the same values (except with --split_batch, which splits the images of
    each rank). `draw` maps the number of images of all ranks to a tensor (total, ...).
    """
    first, total = rank_offset(count)
    return draw(total)[first : first + count]


def all_reduce_gradients(parameters):
    """Replace gradients by their sum over ranks, in one exchange."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = all_reduce_sum(torch.cat([g.flatten() for g in gradients]))
    sizes = [g.numel() for g in gradients]
    for gradient, summed in zip(gradients, total.split(sizes), strict=True):
        gradient.copy_(summed.view_as(gradient))
