"""Means of logged values over an epoch, over the parts of a batch and over ranks."""

import torch

from runtime.distributed import all_reduce_sum


class EpochMeans:
    """Means over the steps of an epoch. A step may consist of several parts on several ranks."""

    def __init__(self, sums=None, counts=None):
        """Start an epoch, or continue one with the `sums` and `counts` of `state`."""
        self.sums, self.counts, self.step = dict(sums or {}), dict(counts or {}), {}

    def state(self):
        """Return the sums and counts of the epoch so far, for a resume within the epoch."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def add(self, name, value, batch_fraction, device):
        """Add a value of a part of the batch to the current step, weighted by its fraction."""
        value = torch.as_tensor(value, device=device).detach().float() * batch_fraction
        self.step[name] = self.step[name] + value if name in self.step else value

    def reduce_step(self):
        """Sum the current step over all ranks, add it to the epoch, and return it as floats.

        One wait for the device, and one exchange between the ranks.
        """
        names = list(self.step)
        values = all_reduce_sum(torch.stack(list(self.step.values()))).tolist()
        self.step = {}
        for name, value in zip(names, values, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        return dict(zip(names, values, strict=True))

    def means(self):
        """Return the mean of each name over the steps of the epoch in which it was logged."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}
