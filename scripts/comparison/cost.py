"""Parameters and multiply-adds of the network of an experiment."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from comparison.gains import Group
from model import build_network, count_parameters, is_multi_scale
from option import parse_args
from runtime.files import UserError

SR_PIXELS = 1280 * 720  # the field's convention: multiply-adds for one such SR image
# LR pixels of the image that is counted. The cost is proportional to the pixels, except for the
# hashing of NLSN: 0.1 % of its cost at 1280x720, less at this size.
SIDE = 48


class Cost(NamedTuple):
    """Trainable parameters, and multiply-adds of matrix products and convolutions."""

    parameters: int
    multiply_adds: float


def cost_of(args, scale):
    """Return the Cost of the network that flags describe, at a scale.

    The network runs once, on a small image.
    """
    args.scale = [scale]
    net = build_network(args).eval()
    lr = torch.zeros(1, args.n_colors, SIDE, SIDE)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(lr, scale) if is_multi_scale(net) else net(lr)
    images = SR_PIXELS / (SIDE * scale) ** 2
    return Cost(count_parameters(net), counter.get_total_flops() / 2 * images)


class CostTable:
    """Costs of rows, computed once for each experiment and scale."""

    def __init__(self):
        self._found = {}
        self.notes = []

    def cost(self, row, scale):
        """Return the Cost of a row's or a group's network, or None."""
        row = row.rows[0] if isinstance(row, Group) else row
        if row.run is None or not row.run.flags:
            return None
        key = (row.folder, scale)
        if key not in self._found:
            self._found[key] = self._compute(row, scale)
        return self._found[key]

    def _compute(self, row, scale):
        folder = row.folder
        flags = ["--dir_experiment", str(folder.parent), "--load", folder.name, "--test_only"]
        try:
            args = parse_args([*flags, "--cpu"])
            return cost_of(args, scale)
        except (UserError, NotImplementedError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            self.notes.append(f"no multiply-adds of {row.run.label} x{scale}: {reason}")
            return None
