"""The losses. A new one is a class and one line in `LOSSES`.

`--loss 1*L1+0.1*MSE` is a sum of weighted terms. A term is a module `Term(args)` with `forward(sr, hr, lr) -> scalar`, on
tensors (B, C, H, W) in [0, rgb_range]. It may set `self.report`, a dict of numbers that are logged beside its value.
"""

import importlib
import math
import re

from torch import nn

from errors import InputError

# name in --loss: "module:class"
LOSSES = {
    "L1": "loss.pixel:L1",
    "MSE": "loss.pixel:MSE",
}


def parse_loss(text):
    """Read '1*L1+5*CL-patchD' as [(1.0, 'L1'), (5.0, 'CL-patchD')]; a weight of 1 may be left out.

    Raises:
        InputError: a weight that is no finite number, or a name that is not in `LOSSES`.
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
            raise InputError(f"--loss {text}: the weight {weight!r} of {name} is not a number")
        if name not in LOSSES:
            raise InputError(f"--loss {text}: there is no loss {name!r}; the names are {', '.join(LOSSES)}")
        terms.append((value, name))
    names = [name for _, name in terms]
    if len(set(names)) < len(names):
        raise InputError(f"--loss {text}: a loss stands twice")
    return terms


class Loss(nn.Module):
    """The weighted sum of the terms of --loss, and the mean of each over the epoch so far."""

    def __init__(self, args):
        super().__init__()
        self.weights = {name: weight for weight, name in parse_loss(args.loss)}
        self.terms = nn.ModuleDict()
        for name in self.weights:
            module, _, cls = LOSSES[name].partition(":")
            self.terms[name] = getattr(importlib.import_module(module), cls)(args)
        self.start_epoch()

    def start_epoch(self):
        """Forget the values of the last epoch."""
        self.sums, self.count = {}, 0

    def forward(self, sr, hr, lr):
        """Give the weighted sum (scalar) for sr and hr (B, C, H, W) and lr (B, C, h, w), all in [0, rgb_range]."""
        total, values = 0, {}
        for name, term in self.terms.items():
            value = self.weights[name] * term(sr, hr, lr)
            total = total + value
            values[name] = value.detach()
            values |= {f"{name} {key}": number for key, number in getattr(term, "report", {}).items()}
        values["Total"] = total.detach()
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        return total

    def means(self):
        """Give the mean of each weighted term and of their sum, `Total`, over the epoch so far."""
        return {name: value / self.count for name, value in self.sums.items()} if self.count else {}

    def describe(self):
        """Give the means as they stand in the log: [L1: 3.1415][Total: 3.1415]."""
        means = self.means()
        if len(self.terms) == 1 and len(means) == 2:
            means.pop("Total")
        return "".join(f"[{name}: {value:.4f}]" for name, value in means.items())
