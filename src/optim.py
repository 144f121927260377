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
    if args.optimizer == "SGD":
        # never fused: torch's kernel leaves the momentum unset if GradScaler rejects the first step
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    # ADAM adds weight decay to the gradient, ADAMW decouples it (Loshchilov and Hutter, ICLR 2019)
    cls = torch.optim.AdamW if args.optimizer == "ADAMW" else torch.optim.Adam
    common["fused"] = parameters[0].device.type in ("cpu", "cuda")  # one kernel for all parameters
    return cls(parameters, betas=tuple(args.betas), eps=args.epsilon, **common)


def load_optimizer(optimizer, state, order=None):
    """Load the state of an optimizer; a damaged one or one of another kind is a ValueError.

    Betas, epsilon and so on remain those of the flags. `order` are the indices of the parameters of
    this optimizer in the state, if a former version of a network had them in another order.
    """
    # before loading: `fused` decides on which device torch puts the count of steps
    pairs = zip(state["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    groups = [{**own, "params": saved["params"]} for saved, own in pairs]
    kept = state["state"]
    if order and kept:
        kept = {i: kept[index] for i, index in enumerate(order) if index in kept}
    optimizer.load_state_dict({"state": kept, "param_groups": groups})
    names = OPTIMIZER_STATE.get(type(optimizer))  # None: of another optimizer, not checked
    for parameter, kept in optimizer.state.items():
        fits = isinstance(kept, dict) and (names is None or set(kept) in (names, set()))
        for value in kept.values() if fits else ():
            is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
            fits &= value is None or (is_float and value.shape in ((), parameter.shape))
        if not fits:
            shape = tuple(parameter.shape)
            raise ValueError(f"the optimizer state of a parameter of shape {shape} does not fit")


def milestones(args, epoch, step):
    """Return lr * gamma^(number of milestones that have passed)."""
    return args.lr * args.gamma ** sum(epoch > int(end) for end in args.decay.split("-"))


def cosine(args, epoch, step):
    """Return the rate of SGDR (Loshchilov and Hutter, ICLR 2017, equation 5).

    After --cosine_tmax epochs it rises again, as torch's CosineAnnealingLR does.
    """
    return _cosine(args, (epoch - 1) / (args.cosine_tmax or args.epochs))


def _cosine(args, progress, weight=1.0):
    amplitude = weight * (args.lr - args.cosine_etamin)
    return args.cosine_etamin + amplitude * (1 + math.cos(math.pi * progress)) / 2


def cosine_restart(args, epoch, step):
    """Return the rate of three cosine cycles; the last value is kept after them.

    --cosine_restart_weight multiplies the amplitude of the second and third. A cycle of T epochs
    restarts in epoch T + 1, as in torch's CosineAnnealingWarmRestarts; in the release of PCL-SR,
    that epoch still has the smallest rate.
    """
    period = args.cosine_tmax or math.ceil(args.epochs / 3)
    cycle = min((epoch - 1) // period, 2)
    weight = args.cosine_restart_weight if cycle else 1.0
    return _cosine(args, min((epoch - 1) / period - cycle, 1.0), weight)


# name in --scheduler: function of the flags, the epoch and its step, both counted from 1. A rate
# depends on nothing else, so that a resume cannot change it.
SCHEDULES = {"MileStone": milestones, "Cosine": cosine, "CosineRestart": cosine_restart}


def learning_rate(args, epoch, step=None):
    """Return the learning rate of a step, counted from 1; without `step`, as if after --warmup."""
    rate = SCHEDULES[args.scheduler](args, epoch, step or 1)
    if step and args.warmup:
        rate *= min(1.0, ((epoch - 1) * args.test_every + step) / args.warmup)
    return rate


def set_learning_rate(optimizer, lr):
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(args, optimizer):
    """Clip gradients (--gclip, --gclip_norm); return the norm before --gclip_norm, or None."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if args.gclip > 0:
        nn.utils.clip_grad_value_(parameters, args.gclip)
    if args.gclip_norm > 0:
        return nn.utils.clip_grad_norm_(parameters, args.gclip_norm)
    return None


class EMA:
    """Exponential moving average of a network's weights; `average` is a network that has them."""

    def __init__(self, net, decay=0.99):
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay
        # kept: to list the 1,634 tensors of RCAN takes longer than to average them on a GPU
        both = ([*x.parameters(), *x.buffers()] for x in (self.average, net))
        pairs = list(zip(*both, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._floats = [list(x) for x in zip(*floats, strict=True)]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self):
        """Update the average: decay * average + (1 - decay) * weights."""
        torch._foreach_lerp_(*self._floats, 1 - self.decay)
        for average, value in self._others:
            average.copy_(value)
