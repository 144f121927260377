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
ALIGNMENT = 64  # bytes


class Batch(NamedTuple):
    """Patches of one training step in [0, 255], uint8 or float32.

    A sample is a Batch without the axis B, and with one name. A new tensor of a sample is a field
    here and a value in `TrainDataset.__getitem__`.
    """

    lr: torch.Tensor  # (B, C, h, w)
    hr: torch.Tensor  # (B, C, h*scale, w*scale)
    names: list  # B names of images
    scale: int  # that of all samples

    def map_tensors(self, function):
        """Return the batch with each tensor replaced by function(tensor)."""
        return Batch(*(function(x) if isinstance(x, torch.Tensor) else x for x in self))


class Place(NamedTuple):
    """Place of a tensor in the shared memory, sent by a worker in its stead."""

    offset: int
    dtype: torch.dtype
    shape: tuple


def _collate(samples, allocate):
    """Return a Batch of samples: tensors stacked, names listed.

    `allocate(dtype, shape)` returns a tensor to fill, and what stands for it in the Batch.
    """
    fields = []
    for values in zip(*samples, strict=True):
        if isinstance(values[0], torch.Tensor):
            dtypes = {value.dtype for value in values}
            # 8-bit and other images are mixed as float32
            dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
            tensor, field = allocate(dtype, (len(values), *values[0].shape))
            for target, value in zip(tensor, values, strict=True):
                target.copy_(value)
            fields.append(field)
        else:
            fields.append(list(values) if isinstance(values[0], str) else values[0])
    return Batch(*fields)


def _as_images(memory, shape):
    """Return memory (B*C*H*W,) as a tensor (B, C, H, W) in channels_last."""
    if len(shape) != 4:
        return memory.view(shape)
    batch, channels, height, width = shape
    return memory.view(batch, height, width, channels).permute(0, 3, 1, 2)


def collate(samples):
    """Return a Batch of samples of one scale."""

    def allocate(dtype, shape):
        tensor = _as_images(torch.empty(math.prod(shape), dtype=dtype), shape)
        return tensor, tensor

    return _collate(samples, allocate)


class SharedBatches:
    """Memory in which loader workers, forked from this process, leave their batches for it.

    Each worker fills its slots in turn. With `PREFETCH`, a slot is filled again when the second
    batch after it has been requested. The memory belongs to no file system: a small /dev/shm does
    not matter.
    """

    def __init__(self, workers, max_bytes):
        """Set aside slots for batches of `max_bytes`; they take memory when they are used."""
        self.slot_bytes = max_bytes + ALIGNMENT * len(Batch._fields)
        size = workers * SLOTS * self.slot_bytes
        try:
            raw = mmap.mmap(-1, size)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--n_threads {workers}: no {size:,} bytes of memory for the batches of the workers"
                f" ({error}): a smaller --n_threads or --batch_size helps"
            ) from error
        self.memory = torch.frombuffer(raw, dtype=torch.uint8)
        self.next_slot = 0

    def collate(self, samples):
        """Write a batch of samples; return it with a Place for each tensor: a collate_fn."""
        self.next_slot = (self.next_slot + 1) % SLOTS
        offset = (get_worker_info().id * SLOTS + self.next_slot) * self.slot_bytes

        def allocate(dtype, shape):
            nonlocal offset
            place = Place(-(-offset // ALIGNMENT) * ALIGNMENT, dtype, shape)
            offset = place.offset + math.prod(shape) * dtype.itemsize
            return self._tensor(place), place

        return _collate(samples, allocate)

    def receive(self, batch):
        """Return the Batch of `collate` with its tensors, in the main process."""
        return Batch(*(self._tensor(x) if isinstance(x, Place) else x for x in batch))

    def _tensor(self, place):
        end = place.offset + math.prod(place.shape) * place.dtype.itemsize
        return _as_images(self.memory[place.offset : end].view(place.dtype), place.shape)
