"""Batches of training patches, passed from loader workers to the main process in shared memory.

The memory is allocated once, before the workers are forked. torch's DataLoader instead makes a file
in /dev/shm for each tensor. These files can fill the 64 MB of /dev/shm in a container, and are
slower: 2,500 to 3,900 patches/s with 2 workers, against 5,500 to 11,400 here (measured in turn by
`scripts/dev/bench.py pipeline --scale 4 --n_threads 2`, on a machine with other load).
"""

import math
import mmap
from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

from runtime.files import UserError

PREFETCH = 2  # batches that a worker makes ahead of time
# Batches that a worker has memory for: those made ahead, the one that a training step uses, and one
# that is requested before the step ends.
SLOTS = PREFETCH + 2
TIMEOUT = 600  # seconds to wait for a batch, far beyond any disk: a run must not hang forever


class Batch(NamedTuple):
    """Patches of one training step in [0, 255], uint8 or float32.

    Attributes:
        lr: (B, C, h, w).
        hr: (B, C, h*scale, w*scale).
        names: B names of images.
        scale: int.
    """

    lr: torch.Tensor
    hr: torch.Tensor
    names: list
    scale: int


def _common_dtype(samples):
    """Return the dtype of a batch: float32 if 8-bit and other samples are mixed."""
    dtypes = {image.dtype for lr, hr, *_ in samples for image in (lr, hr)}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _channels_last(memory, shape):
    """Return memory (B*C*H*W,) as a tensor (B, C, H, W) in channels_last."""
    batch, channels, height, width = shape
    return memory.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _shapes(samples):
    """Return the shapes of lr and hr of a batch."""
    lr, hr, *_ = samples[0]
    return [(len(samples), *image.shape) for image in (lr, hr)]


def _fill(tensors, samples):
    """Copy lr and hr of each sample into the two tensors of a batch."""
    for i, (lr, hr, *_) in enumerate(samples):
        tensors[0][i].copy_(lr)
        tensors[1][i].copy_(hr)
    return tensors


def collate(samples):
    """Return a Batch of samples (lr, hr, name, scale) of one scale."""
    dtype = _common_dtype(samples)
    tensors = [
        _channels_last(torch.empty(math.prod(shape), dtype=dtype), shape)
        for shape in _shapes(samples)
    ]
    return Batch(*_fill(tensors, samples), [sample[2] for sample in samples], samples[0][3])


class SlotHandle(NamedTuple):
    """Place of a batch in the shared memory, sent by a worker."""

    worker: int
    slot: int
    dtype: torch.dtype
    shapes: list  # of lr and hr
    names: list
    scale: int


class SharedBatches:
    """Memory in which loader workers, forked from this process, leave their batches for it.

    Each worker fills its slots in turn. With `PREFETCH`, a slot is filled again when the second
    batch after it has been requested. The memory belongs to no file system: a small /dev/shm does
    not matter.
    """

    def __init__(self, workers, max_bytes):
        """Set aside the slots; they take memory when they are used.

        Args:
            workers: number of loader workers.
            max_bytes: bytes of the largest batch.
        """
        try:
            raw = mmap.mmap(-1, workers * SLOTS * max_bytes)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--n_threads {workers}: no {workers * SLOTS * max_bytes:,} bytes of memory for the"
                f" batches of the workers ({error}): a smaller --n_threads or --batch_size helps"
            ) from error
        self.memory = torch.frombuffer(raw, dtype=torch.uint8).view(workers, SLOTS, max_bytes)
        self.next_slot = 0

    def collate(self, samples):
        """Write a batch of samples and return its handle; collate_fn of the DataLoader."""
        self.next_slot = (self.next_slot + 1) % SLOTS
        names, scale = [sample[2] for sample in samples], samples[0][3]
        handle = SlotHandle(
            get_worker_info().id,
            self.next_slot,
            _common_dtype(samples),
            _shapes(samples),
            names,
            scale,
        )
        _fill(self._tensors(handle), samples)
        return handle

    def receive(self, handle):
        """Return the batch of a handle, in the main process."""
        return Batch(*self._tensors(handle), handle.names, handle.scale)

    def _tensors(self, handle):
        counts = [math.prod(shape) for shape in handle.shapes]
        slot = self.memory[handle.worker, handle.slot]
        used = slot[: sum(counts) * handle.dtype.itemsize].view(handle.dtype)
        parts = zip(used.split(counts), handle.shapes, strict=True)
        return [_channels_last(part, shape) for part, shape in parts]
