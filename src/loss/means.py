"""Means of logged values over an epoch, parts of a batch and ranks."""

import torch

from runtime.distributed import all_reduce_sum, world_size
from runtime.host_copy import HostCopy


class EpochMeans:
    """Means of logged values over the steps of an epoch.

    A step may consist of several parts on several ranks.
    """

    def __init__(self, sums=None, counts=None):
        """Start an epoch, or continue one with the `sums` and `counts` of `state`."""
        self.sums, self.counts, self.step = dict(sums or {}), dict(counts or {}), {}

    def state(self):
        """Return the epoch's sums and counts so far, to resume within the epoch."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def add(self, name, value, batch_fraction, device):
        """Add a batch part's value to the current step, weighted by its fraction."""
        value = torch.as_tensor(value, device=device).detach().float() * batch_fraction
        self.step[name] = self.step[name] + value if name in self.step else value

    def start_reduction(self, extra=()):
        """Sum the current step over all ranks: one exchange, and no wait for the device.

        Args:
            extra: numbers of this rank that are summed as well.

        Returns:
            the sums by name, scalar tensors.
        """
        values = torch.stack(list(self.step.values()))
        if world_size() > 1 and len(extra):
            extra = torch.tensor(extra, dtype=values.dtype)
            extra = extra.to(values.device, non_blocking=values.is_cuda)
            values = torch.cat([values, extra])
        values = all_reduce_sum(values)
        self._names, self._copy = list(self.step), HostCopy(values)
        self.step = {}
        return dict(zip(self._names, values, strict=False))

    def finish_reduction(self):
        """Add the step to the epoch; return its sums by name, and those of `extra`.

        Waits for the device. With a single rank, the sums of `extra` are empty.
        """
        values = self._copy.read()
        step = dict(zip(self._names, values, strict=False))
        for name, value in step.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        return step, values[len(step) :]

    def means(self):
        """Return each name's mean over the steps in which it was logged."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}
