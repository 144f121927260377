"""Cast all weights to the 16 bits of autocast by one operation a step.

Autocast takes one operation per tensor.
"""

import contextlib

import torch
from torch import nn

from runtime.precision import autocast_dtype

GROUP_BYTES = 25 * 2**20  # as the buckets of DistributedDataParallel, which are sent when complete
# the frame of the SR networks computes these in float32, see `model.common.SRNetwork`
IN_FLOAT32 = ("head.", "sub_mean", "add_mean", "tail.1")


class _CastAll(torch.autograd.Function):
    """Cast tensors to `dtype`, and their gradients back, each by one operation."""

    @staticmethod
    def forward(ctx, dtype, *weights):
        ctx.set_materialize_grads(False)
        ctx.layouts = [(w.shape, w.stride(), w.dtype) for w in weights]
        low = [torch.empty_like(w, dtype=dtype) for w in weights]
        torch._foreach_copy_(low, list(weights))
        return tuple(low)

    @staticmethod
    def backward(ctx, *grads):
        full = [
            None
            if grad is None
            else torch.empty_strided(shape, stride, dtype=dtype, device=grad.device)
            for (shape, stride, dtype), grad in zip(ctx.layouts, grads, strict=True)
        ]
        pairs = [(f, grad) for f, grad in zip(full, grads, strict=True) if grad is not None]
        torch._foreach_copy_(*(list(x) for x in zip(*pairs, strict=True)))
        return None, *full


class WeightCast:
    """Casts the weights of modules to 16 bits for a `with` block.

    The casts stand in the instance dictionaries of the modules, which Python reads before the
    parameters that nn.Module keeps; state_dict, optimizers and hooks see the parameters only.
    """

    def __init__(self, modules):
        """Keep the modules whose weights are cast: those that run under autocast."""
        self.groups, size = [], GROUP_BYTES
        for module in modules:
            for name in ("weight", "bias"):
                weight = module._parameters.get(name)
                if weight is None:
                    continue
                if size + weight.nbytes > GROUP_BYTES:
                    self.groups.append([])
                    size = 0
                self.groups[-1].append((module, name))
                size += weight.nbytes

    @contextlib.contextmanager
    def cast(self, device, precision):
        """Cast the weights for a `with` block; nothing to do in single precision."""
        if precision == "single":
            yield
            return
        dtype = autocast_dtype(device, precision)
        for group in self.groups:
            weights = [module._parameters[name] for module, name in group]
            for (module, name), low in zip(group, _CastAll.apply(dtype, *weights), strict=True):
                module.__dict__[name] = low
        try:
            yield
        finally:
            for group in self.groups:
                for module, name in group:
                    module.__dict__.pop(name, None)


def autocast_modules(net):
    """Return the modules of an SR network whose weights autocast casts."""
    return [
        module
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)) and not name.startswith(IN_FLOAT32)
    ]
