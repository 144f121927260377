"""Optimizers, the learning rate as a function of the epoch, and the moving average of the weights."""

import copy
import math

import torch

# what each keeps of a parameter
MOMENTS = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.RMSprop: {"step", "square_avg"},
    torch.optim.SGD: {"momentum_buffer"},
}


def build_optimizer(args, parameters, lr=None):
    """Make the optimizer of --optimizer for the parameters that train; `lr` overrides --lr."""
    common = {"lr": lr or args.lr, "weight_decay": args.weight_decay}
    parameters = [p for p in parameters if p.requires_grad]
    if args.optimizer == "RMSprop":
        return torch.optim.RMSprop(parameters, eps=args.epsilon, **common)
    common["fused"] = parameters[0].device.type in ("cpu", "cuda")  # one kernel for all parameters
    if args.optimizer == "SGD":
        return torch.optim.SGD(parameters, momentum=args.momentum, **common)
    return torch.optim.Adam(parameters, betas=tuple(args.betas), eps=args.epsilon, **common)


def load_optimizer(optimizer, state):
    """Take over the moments of an optimizer of the same kind; its numbers (betas, epsilon) stay those of the flags.

    Raises:
        ValueError: the state is damaged, or another optimizer's.
    """
    own = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, numbers in zip(optimizer.param_groups, own, strict=True):
        for key in set(group) - {"params"}:
            del group[key]
        group.update(numbers)
    names = MOMENTS[type(optimizer)]
    for parameter, kept in optimizer.state.items():
        fits = isinstance(kept, dict) and set(kept) in (names, set())  # none before the first step
        for value in kept.values() if fits else ():
            tensor = isinstance(value, torch.Tensor) and value.is_floating_point()
            fits &= value is None or (tensor and value.shape in ((), parameter.shape))
        if not fits:
            raise ValueError(
                f"the moments of a parameter of shape {tuple(parameter.shape)} do not fit it"
            )


def _cosine(lr, eta_min, done):
    return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * done)) / 2


def learning_rate(args, epoch):
    """Give the learning rate of an epoch, numbered from 1.

    A function of the epoch alone: resuming cannot change it.
    MileStone: lr * gamma^(milestones passed). Cosine: SGDR (Loshchilov and Hutter, ICLR 2017), equation 5, over cosine_tmax
    epochs. CosineRestart: three such cycles, the second and third starting from lr * cosine_restart_weight; the last value
    is held after them.
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


def set_learning_rate(optimizer, lr):
    """Set the learning rate of all groups of an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class EMA:
    """Exponential moving average of a network's weights: `average` is a network with the averaged weights."""

    def __init__(self, net, decay=0.99):
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net):
        """Move the average towards the weights of `net` by 1 - decay."""
        own, new = self.average.state_dict(), net.state_dict()
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(new[name], 1 - self.decay)
            else:
                value.copy_(new[name])
