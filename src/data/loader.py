"""Batches of training patches, and their way from loader processes to the main process."""

import math
import mmap
from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

PREFETCH = 2  # batches that a loader process makes ahead of time
SLOTS = (
    PREFETCH + 2
)  # and the one in use, and one more that may be asked for before that is done with


class Batch(NamedTuple):
    """Patches of one training step: lr (B,C,h,w) and hr (B,C,h*scale,w*scale) with white at 255, uint8 or float32."""

    lr: torch.Tensor
    hr: torch.Tensor
    names: list
    scale: int


def _common_dtype(samples):
    """Give the dtype of a batch of samples (lr, hr, name, scale): 8-bit and other samples mixed become float32."""
    dtypes = {image.dtype for lr, hr, *_ in samples for image in (lr, hr)}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _stack(images, out):
    """Copy images (C, H, W) of any strides into a tensor (B, C, H, W)."""
    for place, image in zip(out, images, strict=True):
        place.copy_(image)
    return out


def _channels_last(memory, shape):
    """View memory (B*C*H*W,) as a tensor (B, C, H, W) in channels_last, as images on disk and fast convolutions have it."""
    batch, channels, height, width = shape
    return memory.view(batch, height, width, channels).permute(0, 3, 1, 2)


def collate(samples):
    """Make a Batch of samples (lr, hr, name, scale) of one scale."""
    lr, hr, names, scales = zip(*samples, strict=True)
    dtype = _common_dtype(samples)
    stacked = []
    for images in (lr, hr):
        shape = (len(images), *images[0].shape)
        stacked.append(
            _stack(images, _channels_last(torch.empty(math.prod(shape), dtype=dtype), shape))
        )
    return Batch(*stacked, list(names), scales[0])


class _Note(NamedTuple):
    """What a loader process sends in place of a batch: where it lies."""

    worker: int
    slot: int
    dtype: torch.dtype
    shapes: list  # of lr and hr
    names: list
    scale: int


class SharedBatches:
    """Memory in which loader processes, forked from this one, leave their batches for it.

    Made once: new shared memory for each tensor, as torch does it, costs some 2 ms a tensor, more than making a batch. Each
    process fills its slots in turn. With `PREFETCH` a slot is filled again when the second batch after it has been asked for.
    The memory belongs to no file system, so that the small /dev/shm of a container does not matter.
    """

    def __init__(self, workers, most):
        """Set aside the slots; they take memory when they are used.

        Args:
            workers: number of loader processes.
            most: bytes of the largest batch; one that is larger is handed over by torch.
        """
        self.memory = torch.frombuffer(
            mmap.mmap(-1, workers * SLOTS * most), dtype=torch.uint8
        ).view(workers, SLOTS, most)
        self.turn = 0

    def put(self, samples):
        """In a loader process: make a batch of samples and give the note of where it lies; DataLoader's collate_fn."""
        lr, hr, names, scales = zip(*samples, strict=True)
        dtype = _common_dtype(samples)
        shapes = [(len(images), *images[0].shape) for images in (lr, hr)]
        if sum(map(math.prod, shapes)) * dtype.itemsize > self.memory.shape[2]:
            return collate(samples)
        self.turn = (self.turn + 1) % SLOTS
        note = _Note(get_worker_info().id, self.turn, dtype, shapes, list(names), scales[0])
        for images, out in zip((lr, hr), self._images(note), strict=True):
            _stack(images, out)
        return note

    def take(self, note):
        """In the main process: give the batch that a note tells of."""
        if isinstance(note, Batch):
            return note
        return Batch(*self._images(note), note.names, note.scale)

    def _images(self, note):
        counts = [math.prod(shape) for shape in note.shapes]
        used = self.memory[note.worker, note.slot][: sum(counts) * note.dtype.itemsize].view(
            note.dtype
        )
        return [
            _channels_last(part, shape)
            for part, shape in zip(used.split(counts), note.shapes, strict=True)
        ]
