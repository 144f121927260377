"""The networks. A new one is a file with `make_model(args)` and a line in `NETWORKS`."""

import importlib

import torch
from torch import nn

from runtime.distributed import local_rank, local_world_size
from runtime.files import UserError

# name for --model: module with make_model(args)
NETWORKS = {
    "EDSR": "model.edsr",
    "RCAN": "model.rcan",
    "HAN": "model.han",
    "NLSN": "model.nlsn",
    "Bicubic": "model.bicubic",
}


def build_network(args):
    """Build the network of --model in channels_last, the fastest memory format for convolutions.

    Raises:
        UserError: several scales for a network of one scale, or a scale that it does not have.
    """
    try:
        net = importlib.import_module(NETWORKS[args.model]).make_model(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:  # torch raises it for a tensor that memory cannot hold
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--model {args.model} must fit into memory: give a smaller --n_feats ({reason})"
        ) from error
    if len(args.scale) > 1 and not is_multi_scale(net):
        scales = "+".join(map(str, args.scale))
        raise UserError(
            f"--scale {scales} must be one scale for --model {args.model}: train a network for each"
        )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return net


def architecture_flags(net):
    """Return the names of the flags that the network's function depends on."""
    return ("model", "scale", *getattr(net, "flags", ()))


def is_multi_scale(net):
    """Return whether the network takes the scale as a second argument of forward."""
    return getattr(net, "multi_scale", False)


def count_parameters(net):
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def choose_device(cpu):
    """Return the best device: cuda (this process's GPU), then mps, then the CPU.

    With `cpu` it is the CPU.

    Raises:
        UserError: more processes on this machine than GPUs.
    """
    if not cpu and torch.cuda.is_available():
        if local_world_size() > torch.cuda.device_count():
            raise UserError(
                f"{local_world_size()} processes need as many GPUs, and there are "
                f"{torch.cuda.device_count()}: give a smaller --n_GPUs"
            )
        return torch.device("cuda", local_rank())
    if not cpu and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
