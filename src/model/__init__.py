"""The networks. A new one is a file with `make_model(args)` and a line in `NETWORKS`."""

import functools
import importlib
import shlex

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model import spandrel
from runtime.distributed import is_task_of_srun, local_rank, local_world_size
from runtime.files import UserError
from runtime.process import gpu_problem

# name for --model: module with make_model(args). Other names are networks of spandrel.
NETWORKS = {
    "EDSR": "model.edsr",
    "MDSR": "model.mdsr",
    "RCAN": "model.rcan",
    "HAN": "model.han",
    "NLSN": "model.nlsn",
    "Bicubic": "model.bicubic",
}


def is_network(name):
    """Return whether --model may have a name."""
    return name in NETWORKS or spandrel.is_known(name)


def build_network(args):
    """Build the network of --model, which writes its flags into its state_dict.

    Convolutions are in channels_last, the fastest memory format for them.
    """
    module = importlib.import_module(NETWORKS.get(args.model, "model.spandrel"))
    try:
        net = module.make_model(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:  # torch raises it for a tensor that memory cannot hold
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--model {args.model} must fit into memory: give a smaller --n_feats ({reason})"
        ) from error
    if len(args.scale) > 1 and not is_multi_scale(net):
        scales = "+".join(map(str, args.scale))
        raise UserError(
            f"--scale {scales} must be one scale for --model {args.model}: train a network for each"
        )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and getattr(net, "channels_last", True):
            layer.to(memory_format=torch.channels_last)
    values = {name: getattr(args, name) for name in architecture_flags(net)}
    holder = net.net if isinstance(net, spandrel.SpandrelNetwork) else net
    describe = functools.partial(_write_flags, shlex.join(to_argv(values)))
    holder.register_state_dict_post_hook(describe)
    return net


def _write_flags(flags, _module, _state, _prefix, metadata):
    """Write the flags of a network beside the version of the module: strict loading ignores it."""
    metadata["flags"] = flags


def to_argv(flags):
    """Return flags as words of a command line."""
    values = {k: "+".join(map(str, v)) if isinstance(v, list) else v for k, v in flags.items()}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


class _KeepRanges(TorchFunctionMode):
    """Keep small tables on the CPU in `build_on_meta`: constructors read their values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return function(
            *args, **(kwargs | {"device": "cpu"} if function is torch.linspace else kwargs)
        )


def build_on_meta(args):
    """Build the network without memory for its weights, to see their names and shapes."""
    with torch.device("meta"), _KeepRanges():
        return build_network(args)


def architecture_flags(net):
    """Return the names of the flags that the network's function depends on."""
    return ("model", "scale", *getattr(net, "flags", ()))


def has_unused_parameters(net):
    """Return whether a training step may use a part of the weights only."""
    return is_multi_scale(net) or getattr(net, "has_unused_parameters", False)


def is_multi_scale(net):
    """Return whether the network takes the scale as a second argument of forward."""
    return getattr(net, "multi_scale", False)


def count_parameters(net):
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def choose_device(cpu):
    """Return the best device: cuda (this process's GPU), then mps, then the CPU.

    With `cpu` it is the CPU.
    """
    if not cpu and torch.cuda.is_available() and not gpu_problem():
        n_gpus = torch.cuda.device_count()
        if n_gpus == 1 and is_task_of_srun():
            return torch.device("cuda", 0)
        if local_world_size() > n_gpus:
            raise UserError(
                f"{local_world_size()} processes need as many GPUs, and there are {n_gpus}: "
                "give a smaller --n_GPUs"
            )
        return torch.device("cuda", local_rank())
    if not cpu and torch.backends.mps.is_available() and not gpu_problem():
        return torch.device("mps")
    return torch.device("cpu")
