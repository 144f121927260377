"""Batches of training patches, passed from loader workers to the main process in shared memory.

The memory is allocated once, before the workers are forked. torch's DataLoader instead makes a file
in /dev/shm, 64 MB in a container, for each tensor. It is slower: 2,500 to 3,900 patches/s with 2
workers, against 5,500 to 11,400 here (`scripts/dev/bench.py pipeline --scale 4 --n_threads 2`).
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

    A sample is a Batch without the axis B and with one name. A new tensor is a field here, a value
    in `TrainDataset.__getitem__` and part of `max_sample_bytes`; other fields are those of a batch.
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

    offset: int  # bytes
    dtype: torch.dtype
    shape: tuple


def _as_images(memory, shape):
    """Return memory (B*C*H*W,) as a tensor (B, C, H, W) in channels_last."""
    if len(shape) != 4:
        return memory.view(shape)
    batch, channels, height, width = shape
    return memory.view(batch, height, width, channels).permute(0, 3, 1, 2)


def collate(samples, allocate=torch.empty):
    """Return a Batch of samples: tensors stacked in allocate(size, dtype), names listed."""
    fields = []
    for values in zip(*samples, strict=True):
        field = values[0]
        if isinstance(field, torch.Tensor):
            dtypes = {value.dtype for value in values}
            # 8-bit and other images are mixed as float32
            dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
            memory = allocate(len(values) * field.numel(), dtype=dtype)
            field = _as_images(memory, (len(values), *field.shape))
            for target, value in zip(field, values, strict=True):
                target.copy_(value)
        fields.append(list(values) if isinstance(field, str) else field)
    return Batch(*fields)


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
        end = offset + self.slot_bytes

        def allocate(size, dtype):
            nonlocal offset
            start = -(-offset // ALIGNMENT) * ALIGNMENT
            offset = start + size * dtype.itemsize
            return self.memory[start:offset].view(dtype)

        batch = collate(samples, allocate)
        assert offset <= end, "max_sample_bytes must count all tensors of a sample"
        return batch.map_tensors(lambda x: Place(x.storage_offset() * x.itemsize, x.dtype, x.shape))

    def receive(self, batch):
        """Return the Batch of `collate` with its tensors, in the main process."""
        return Batch(*(self._tensor(x) if isinstance(x, Place) else x for x in batch))

    def _tensor(self, place):
        end = place.offset + math.prod(place.shape) * place.dtype.itemsize
        return _as_images(self.memory[place.offset : end].view(place.dtype), place.shape)
