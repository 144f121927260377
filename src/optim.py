"""Optimizers, learning rate schedules, and the EMA of the weights."""

import copy
import math

import torch
from torch import nn

# entries of the state of a parameter in each optimizer
OPTIMIZER_STATE = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.RMSprop: {"step", "square_avg"},
    torch.optim.SGD: {"momentum_buffer"},
}
OPTIMIZERS = ("SGD", "ADAM", "ADAMW", "RMSprop")


def build_optimizer(args, parameters, lr=None):
    """Build the optimizer of --optimizer for the trainable parameters; `lr` overrides --lr."""
    common = {"lr": lr or args.lr, "weight_decay": args.weight_decay}
    parameters = [p for p in parameters if p.requires_grad]
    if args.optimizer == "RMSprop":
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    common["fused"] = parameters[0].device.type in ("cpu", "cuda")  # one kernel for all parameters
    if args.optimizer == "SGD":
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    # ADAM adds weight decay to the gradient, ADAMW decouples it (Loshchilov and Hutter, ICLR 2019)
    cls = torch.optim.AdamW if args.optimizer == "ADAMW" else torch.optim.Adam
    return cls(parameters, betas=tuple(args.betas), eps=args.epsilon, **common)


def load_optimizer(optimizer, state):
    """Load the state of an optimizer of the same kind.

    Betas, epsilon and so on remain those of the flags.

    Raises:
        ValueError: the state is damaged, or of another optimizer.
    """
    settings = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for key in set(group) - {"params"}:
            del group[key]
        group.update(own)
    names = OPTIMIZER_STATE[type(optimizer)]
    for parameter, kept in optimizer.state.items():
        fits = isinstance(kept, dict) and set(kept) in (names, set())  # empty before the first step
        for value in kept.values() if fits else ():
            is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
            fits &= value is None or (is_float and value.shape in ((), parameter.shape))
        if not fits:
            shape = tuple(parameter.shape)
            raise ValueError(f"the optimizer state of a parameter of shape {shape} does not fit")


def _cosine(lr, eta_min, progress):
    return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(args, epoch):
    """Return the learning rate of an epoch, counted from 1, after the warm-up.

    It depends only on the epoch, so that a resume cannot change it.
    MileStone: lr * gamma^(number of milestones that have passed). Cosine: SGDR (Loshchilov and
    Hutter, ICLR 2017, equation 5) over --cosine_tmax epochs. CosineRestart: three such cycles; the
    second and third start at lr * --cosine_restart_weight, and the last value is kept after them.
    A cycle of T epochs restarts in epoch T + 1, as in torch's CosineAnnealingWarmRestarts; in the
    release of PCL-SR, that epoch still has the smallest rate.
    """
    done = epoch - 1
    if args.scheduler == "MileStone":
        passed = sum(done >= int(milestone) for milestone in args.decay.split("-"))
        return args.lr * args.gamma**passed
    if args.scheduler == "Cosine":
        return _cosine(args.lr, args.cosine_etamin, done / (args.cosine_tmax or args.epochs))
    period = args.cosine_tmax or math.ceil(args.epochs / 3)
    cycle = min(done // period, 2)
    weight = args.cosine_restart_weight if cycle else 1.0
    return _cosine(weight * args.lr, args.cosine_etamin, min(done / period - cycle, 1.0))


def warmup_factor(args, epoch, step):
    """Return the learning rate's factor: below 1 in the first --warmup steps, then 1.

    Args:
        args: the flags.
        epoch, step: both counted from 1.
    """
    steps = (epoch - 1) * args.test_every + step
    return min(1.0, steps / args.warmup) if args.warmup else 1.0


def set_learning_rate(optimizer, lr):
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def can_reject_on_device(optimizer, scaler):
    """Return whether `update_weights` takes `rejected`: a fused optimizer, on CUDA.

    A GradScaler gives the optimizer a value of its own.
    """
    is_cuda = optimizer.param_groups[0]["params"][0].is_cuda
    return is_cuda and optimizer.defaults.get("fused") and not scaler.is_enabled()


def rejection_flag(loss, limit):
    """Return the tensor 1.0 if the loss is not finite or above `limit`, else 0.0."""
    return 1.0 - (torch.isfinite(loss) & (loss.double() <= limit)).float()


def update_weights(args, optimizer, scaler, rejected=None):
    """Clip the gradients (--gclip, --gclip_norm) and update the weights.

    Args:
        args: the flags.
        optimizer: with gradients.
        scaler: the GradScaler.
        rejected: tensor; if it is 1.0, nothing changes. The host need not know its value.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if args.gclip > 0 or args.gclip_norm > 0:
        scaler.unscale_(optimizer)
    if args.gclip > 0:
        nn.utils.clip_grad_value_(parameters, args.gclip)
    if args.gclip_norm > 0:
        nn.utils.clip_grad_norm_(parameters, args.gclip_norm)
    if rejected is not None:
        optimizer.found_inf = rejected
    scaler.step(optimizer)
    scaler.update()
    if rejected is not None:
        del optimizer.found_inf


class EMA:
    """Exponential moving average of a network's weights.

    Attributes:
        average: a network with the averaged weights.
    """

    def __init__(self, net, decay=0.99):
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay
        # kept: to list the 1,634 tensors of RCAN takes longer than to average them on a GPU
        pairs = list(zip(_tensors(self.average), _tensors(net), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._floats = [list(x) for x in zip(*floats, strict=True)]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self):
        """Update the average: decay * average + (1 - decay) * weights."""
        torch._foreach_lerp_(*self._floats, 1 - self.decay)
        for average, value in self._others:
            average.copy_(value)


def _tensors(net):
    """Return the parameters and buffers of a network."""
    return [*net.parameters(), *net.buffers()]
