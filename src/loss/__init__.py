"""The losses. A new one is a class and one line in `LOSSES`.

`--loss 1*L1+0.1*MSE` is a sum of weighted terms. A term is a module `Term(args, name)` with `forward(sr, hr, lr) -> scalar`, on
tensors (B, C, H, W) in [0, rgb_range]. It may set `self.report`, a dict of numbers that are logged beside its value; one
that learns has `start_epoch(epoch)`; one with `needs_samples = True` has `forward(sr, positives, negatives, hr)` instead.
"""

import importlib
import math
import re

import torch
from torch import nn

from runtime.distributed import all_reduce_sum
from runtime.errors import UserError

_ADVERSARIAL = ("GAN", "LSGAN", "WGAN", "WGAN_GP", "RGAN", "ContrasD", "patchD")

# name in --loss: "module:class"
LOSSES = {
    "L1": "loss.pixel:L1",
    "MSE": "loss.pixel:MSE",
    "WaveL1": "loss.wavelet:WaveL1",
    "VGG22": "loss.vgg:VGGLoss",
    "VGG54": "loss.vgg:VGGLoss",
    "CL": "loss.cl:VGGContrastiveLoss",
    "VGGInfoNCE": "loss.cl:VGGContrastiveLoss",
    **dict.fromkeys(_ADVERSARIAL, "loss.adversarial:Adversarial"),
    **{f"CL-{name}": "loss.adversarial:Adversarial" for name in _ADVERSARIAL},
}


def parse_loss(text):
    """Read '1*L1+5*CL-patchD' as [(1.0, 'L1'), (5.0, 'CL-patchD')]; a weight of 1 may be left out.

    Raises:
        UserError: a weight that is no finite number, or a name that is not in `LOSSES`.
    """
    terms = []
    # a plus that belongs to an exponent, as in 1e+2*L1, splits nothing
    for part in re.split(r"(?<![0-9.][eE])\+", text):
        weight, star, name = part.rpartition("*")
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"--loss {text}: the weight {weight!r} of {name} is not a number")
        if name not in LOSSES:
            raise UserError(
                f"--loss {text}: there is no loss {name!r}; the names are {', '.join(LOSSES)}"
            )
        terms.append((value, name))
    names = [name for _, name in terms]
    if len(set(names)) < len(names):
        raise UserError(f"--loss {text}: a loss stands twice")
    return terms


class Loss(nn.Module):
    """The weighted sum of the terms of --loss, and the mean of all that is logged over the epoch so far."""

    def __init__(self, args, net=None):
        """Build the terms.

        Args:
            args: the flags.
            net: the SR network, which --neg_sr makes negatives with.

        Raises:
            UserError: a term cannot be built: its weight file is missing, its flags contradict each other.
        """
        super().__init__()
        self.weights = {name: weight for weight, name in parse_loss(args.loss)}
        self.terms = nn.ModuleDict()
        for name in self.weights:
            module, _, cls = LOSSES[name].partition(":")
            self.terms[name] = getattr(importlib.import_module(module), cls)(args, name)
        self.samples = None
        if any(getattr(term, "needs_samples", False) for term in self.terms.values()):
            from loss.samples import SampleMaker

            self.samples = SampleMaker(args, net)
        self.start_epoch(1)

    def set_precision(self, precision):
        """Let the terms that have networks to train run them at a precision: single, half or bf16."""
        for term in self.terms.values():
            if hasattr(term, "set_precision"):
                term.set_precision(precision)

    def progress(self):
        """Give what `start_epoch` goes on from in the middle of an epoch."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def start_epoch(self, epoch, progress=None):
        """Forget the values of the last epoch, or go on from `progress`, and set the learning rates of terms that learn."""
        self.sums, self.counts, self.step = {}, {}, {}
        if progress:
            self.sums, self.counts = dict(progress["sums"]), dict(progress["counts"])
        for term in self.terms.values():
            if hasattr(term, "start_epoch"):
                term.start_epoch(epoch)

    def forward(self, sr, hr, lr, share=1.0, measure=False):
        """Give the weighted sum (scalar), times the share.

        Args:
            sr, hr: (B, C, H, W) in [0, rgb_range]; lr: (B, C, h, w).
            share: the part that these images are of the batch of the step.
            measure: also log the norm of each term's gradient at sr, relative to that of L1 where L1 is a term.

        Raises:
            UserError: with `measure`, a term sends no gradient to sr.
        """
        values, self.device = {}, sr.device
        samples = self.samples(hr, lr) if self.samples else None
        for name, term in self.terms.items():
            needs_samples = getattr(term, "needs_samples", False)
            value = term(sr, *samples, hr) if needs_samples else term(sr, hr, lr)
            values[name] = self.weights[name] * value
        total = sum(values.values())
        if measure:
            self._measure(values, sr, share)
        for name, value in values.items():
            self._note(name, value, share)
            for key, number in getattr(self.terms[name], "report", {}).items():
                self._note(f"{name} {key}", number, share)
        self._note("Total", total, share)
        return total * share

    def _measure(self, values, sr, share):
        norms = {}
        for name, value in values.items():
            gradient = None
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(
                    value * share, sr, retain_graph=True, allow_unused=True
                )
            square = (
                torch.zeros((), device=sr.device) if gradient is None else gradient.square().sum()
            )
            square, part = all_reduce_sum(
                torch.stack([square, square.new_full((), share)])
            ).tolist()
            norms[name] = (
                square**0.5 / part
            )  # of these images alone, where --split_batch splits the batch
            if not norms[name] and self.weights[name] and bool(torch.isfinite(value)):
                raise UserError(f"--loss: {name} sends no gradient to the network")
        if len(norms) == 1:
            return
        reference = norms.get("L1") or 1.0
        for name, norm in norms.items():
            if name != "L1" or "L1" not in norms:
                self._note(f"{name} gradient", norm / reference, share)

    def _note(self, name, value, share):
        value = torch.as_tensor(value, device=self.device).detach().float() * share
        self.step[name] = self.step[name] + value if name in self.step else value

    def reduce_step(self, flag=0.0):
        """Add the values of a step, over all its parts and ranks, to those of the epoch.

        One exchange with the device and between the ranks.

        Args:
            flag: a number of this rank's own.

        Returns:
            (total, flags): the weighted sum of the terms, and the sum of the flags of all ranks.
        """
        names, values = list(self.step), list(self.step.values())
        *values, flags = all_reduce_sum(
            torch.stack([*values, torch.full_like(values[0], flag)])
        ).tolist()
        self.step = {}
        for name, value in zip(names, values, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        return values[names.index("Total")], flags

    def means(self):
        """Give the means over the epoch so far of each weighted term, of what it reports, and of their sum, `Total`."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}

    def describe(self):
        """Give the means as they stand in the log: [L1: 3.1415][Total: 3.1415]."""
        means = self.means()
        if len(means) == 2:
            means.pop("Total")
        return "".join(f"[{name}: {value:.4f}]" for name, value in means.items())
