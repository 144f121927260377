"""The networks. A new one is a file with `make_model(args)` and a line in `NETWORKS`."""

import contextlib
import functools
import importlib
import re
import shlex

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model import spandrel
from runtime.distributed import is_task_of_srun, local_rank, local_world_size
from runtime.files import UserError
from runtime.process import gpu_problem, is_out_of_memory

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
    """Return whether --model may have a name; without spandrel, only the published ones."""
    with contextlib.suppress(UserError):
        return name in NETWORKS or name in spandrel.PUBLISHED or name in spandrel.classes()
    return False


def build_network(args):
    """Build the network of --model, which writes its flags into its state_dict."""
    module = importlib.import_module(NETWORKS.get(args.model, "model.spandrel"))
    try:
        net = module.make_model(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:  # torch raises it for a tensor that memory cannot hold
        if not is_out_of_memory(error) and not re.search("overflow|negative dim", str(error)):
            raise
        text = f"--model {args.model} must fit into memory: give a smaller --n_feats"
        raise UserError(f"{text} ({str(error).splitlines()[0]})") from error
    if len(args.scale) > 1 and not is_multi_scale(net):
        text = f"must be one scale for --model {args.model}: train a network for each"
        raise UserError(f"--scale {'+'.join(map(str, args.scale))} {text}")
    for layer in net.modules():  # the fastest memory format for convolutions
        if isinstance(layer, nn.Conv2d) and getattr(net, "channels_last", True):
            layer.to(memory_format=torch.channels_last)
    holder = net.net if isinstance(net, spandrel.SpandrelNetwork) else net
    flags = format_flags(architecture_flags(args, net))
    holder.register_state_dict_post_hook(functools.partial(_write_flags, flags))
    return net


def _write_flags(flags, _module, _state, _prefix, metadata):
    """Write the flags of a network beside the version of the module: strict loading ignores it."""
    metadata["flags"] = flags


def format_flags(flags):
    """Write flags as on a command line."""
    given = {name: value for name, value in flags.items() if value is not None}
    values = {k: "+".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in given.items()}
    return shlex.join(word for name, value in values.items() for word in (f"--{name}", value))


class _KeepRanges(TorchFunctionMode):
    """Keep small tables on the CPU in `build_on_meta`: constructors read their values."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        device = {"device": "cpu"} if function is torch.linspace else {}
        return function(*args, **(kwargs or {}) | device)


def build_on_meta(args):
    """Build the network without memory for its weights, to see their names and shapes."""
    with torch.device("meta"), _KeepRanges():
        return build_network(args)


def architecture_flags(args, net):
    """Return the flags that the network's function depends on, {name: value}."""
    return {name: getattr(args, name) for name in ("model", "scale", *getattr(net, "flags", ()))}


def is_multi_scale(net):
    """Return whether the network takes the scale as a second argument of forward."""
    return getattr(net, "multi_scale", False)


def count_parameters(net):
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def choose_device(cpu):
    """Return the best device, cuda (this process's GPU), mps or CPU; the CPU if `cpu`."""
    if cpu or gpu_problem():
        return torch.device("cpu")
    if torch.cuda.is_available():
        n_gpus = torch.cuda.device_count()
        if n_gpus == 1 and is_task_of_srun():
            return torch.device("cuda", 0)
        if local_world_size() > n_gpus:
            raise UserError(
                f"{local_world_size()} processes need as many GPUs, and there are {n_gpus}: "
                "give a smaller --n_GPUs"
            )
        return torch.device("cuda", local_rank())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
