"""Weights in the 16 bits of autocast, cast by one operation a step instead of one per tensor."""

import torch
from torch import nn


class _CastAll(torch.autograd.Function):
    """Cast a list of tensors to `dtype`, and their gradients back, each by one operation."""

    @staticmethod
    def forward(ctx, dtype, *weights):
        ctx.layouts = [(w.shape, w.stride(), w.dtype) for w in weights]
        low = [torch.empty_like(w, dtype=dtype) for w in weights]
        torch._foreach_copy_(low, list(weights))
        return tuple(low)

    @staticmethod
    def backward(ctx, *grads):
        full = [
            torch.empty_strided(shape, stride, dtype=dtype, device=grad.device)
            for (shape, stride, dtype), grad in zip(ctx.layouts, grads, strict=True)
        ]
        torch._foreach_copy_(full, list(grads))
        return None, *full


class WeightCast:
    """A `with` block in which convolutions have weights in 16 bits.

    The casts stand in the instance dictionaries of the modules, which Python reads before the
    parameters that nn.Module keeps; state_dict, optimizers and hooks see the parameters only.
    """

    def __init__(self, modules):
        """Keep the modules whose weights are cast: those that run under autocast."""
        self.slots = [
            (module, name)
            for module in modules
            for name in ("weight", "bias")
            if module._parameters.get(name) is not None
        ]

    def cast(self, dtype):
        """Cast the weights; return self, for a `with` statement."""
        weights = [module._parameters[name] for module, name in self.slots]
        for (module, name), low in zip(self.slots, _CastAll.apply(dtype, *weights), strict=True):
            module.__dict__[name] = low
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for module, name in self.slots:
            module.__dict__.pop(name, None)


def autocast_convolutions(net):
    """Return the convolutions of an SR network that run under autocast."""
    in_fp32 = ("head.", "sub_mean", "add_mean", "tail.1")
    return [
        module
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith(in_fp32)
    ]
