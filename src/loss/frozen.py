"""Networks beside the trained one whose SR the losses compare: a teacher, and lagged copies."""

import torch
from torch import nn

from model import is_multi_scale
from optim import EMA
from runtime.precision import autocast, autocast_dtype


@torch.no_grad()
def super_resolve(net, lr, scale, precision):
    """Return the SR of lr (B, C, h, w) by a test: (B, C, H, W) in float32, without gradient."""
    unsupported, was_training = getattr(net, "unsupported_dtypes", ()), net.training
    if precision != "single" and autocast_dtype(lr.device, precision) in unsupported:
        precision = "single"
    net.eval()
    with autocast(lr.device, precision):
        sr = net(*((lr, scale) if is_multi_scale(net) else (lr,))).float()
    net.train(was_training)
    return sr


class Teacher:
    """The network of --teacher. Not a module: its weights are not part of the training state."""

    precision = "single"  # of the network: single, half or bf16

    def __init__(self, net, own_range, rgb_range):
        """Freeze `net`, whose maximum pixel value is `own_range`, not `rgb_range` of the run."""
        self.net, self.factor = net.eval().requires_grad_(False), own_range / rgb_range

    def __call__(self, lr, scale):
        """Return its SR (B, C, H, W) of lr (B, C, h, w), both in [0, rgb_range] of the run."""
        return super_resolve(self.net, lr * self.factor, scale, self.precision) / self.factor


class History(nn.Module):
    """Lagged copies of the SR network, for --neg_history (MCLIR: Wu et al., AAAI 2024).

    Copy i takes over the weights every --history_every[i] steps, and keeps --history_keep.
    """

    def __init__(self, args, net):
        super().__init__()
        self.every = [int(n) for n in args.history_every.split(",")][: args.neg_history]
        self.averages = [EMA(net, args.history_keep) for _ in self.every]
        self.copies = nn.ModuleList(average.average.eval() for average in self.averages)

    def update(self, step):
        """Update the copies that are due after `step` steps of the run."""
        for every, average in zip(self.every, self.averages, strict=True):
            if step and step % every == 0:
                average.update()

    def forward(self, i, lr, scale, precision):
        """Return the SR (B, C, H, W) of copy i."""
        return super_resolve(self.copies[i], lr, scale, precision)
