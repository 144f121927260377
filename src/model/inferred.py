"""Infer a network's flags from its weights.

Sources: names and shapes of the weights, and the config.txt of an experiment.
"""

import contextlib
import re
from pathlib import Path

import torch

from model import architecture_flags, build_network
from model.common import mean_color
from model.layouts import to_edsr_names
from runtime.files import UserError

# Errors of the inference for files of other networks. They are ignored, because the inference only
# gives a hint in another error.
HINT_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def infer_flags(state):
    """Return the flags that names and shapes of EDSR, RCAN, HAN and NLSN show.

    Args:
        state: state_dict in EDSR-PyTorch's names.

    Returns:
        dict, empty for another network. `scale` is an int.
    """
    head = state.get("head.0.weight")
    if head is None or head.dim() != 4:
        return {}
    names = "\n".join(state)
    flags = {"n_feats": head.shape[0], "n_colors": head.shape[1]}
    steps = re.findall(r"^tail\.0\.\d+\.weight$", names, re.M)
    if steps:
        is_x3 = state[steps[0]].shape[0] == 9 * head.shape[0]
        flags["scale"] = 3 if is_x3 else 2 ** len(steps)
    grouped = re.findall(r"^body\.(\d+)\.body\.(\d+)\.body\.0\.weight$", names, re.M)
    if grouped:
        flags["model"] = "HAN" if "la.gamma" in state else "RCAN"
        flags["n_resgroups"] = len({group for group, _ in grouped})
        flags["n_resblocks"] = len({block for _, block in grouped})
        squeeze = state.get("body.0.body.0.body.3.conv_du.0.weight")
        if squeeze is not None:
            flags["reduction"] = head.shape[0] // squeeze.shape[0]
    else:
        flags["model"] = "NLSN" if "conv_match" in names else "EDSR"
        flags["n_resblocks"] = len(re.findall(r"^body\.\d+\.body\.0\.weight$", names, re.M))
    # Another network, or a file made to fill the memory: the convolutions of the blocks are missing
    n_blocks = flags["n_resblocks"] * flags.get("n_resgroups", 1)
    n_values = sum(value.numel() for value in state.values())
    if not n_blocks or n_values < 18 * n_blocks * flags["n_feats"] ** 2:
        return {}
    return flags | _infer_range(state) | _published_flags(flags)


def _infer_range(state):
    """Return the rgb_range that a state_dict's mean color shows, as a dict, or {}."""
    mean = state.get("sub_mean.bias")
    if mean is None or mean.shape not in ((1,), (3,)):
        return {}
    rgb_range = -float(mean[0]) / float(mean_color(len(mean))[0])
    if not 0 < rgb_range < 1e6:
        return {}
    rounded = round(rgb_range)  # the mean is rounded, too, in a file of float16
    is_whole = abs(rgb_range - rounded) < 2e-3 * rgb_range
    return {"rgb_range": rounded if is_whole else float(f"{rgb_range:.3g}")}


def _published_flags(flags):
    """Return the flags of a published network that the shapes do not show."""
    size = (flags["model"], flags["n_resblocks"], flags["n_feats"])
    return {"res_scale": 0.1} if size in (("EDSR", 32, 256), ("NLSN", 32, 256)) else {}


def _flags_of_experiment(path, states, parse_config):
    """Return the flags of a file's experiment, if its network has the weights.

    `states` are the state_dict under its own names and under EDSR-PyTorch's.
    """
    config = path.parent.parent / "config.txt"
    if path.parent.name != "model" or not config.is_file():
        return {}
    args = parse_config(config)
    with torch.device("meta"):
        net = build_network(args)
    own = {name: value.shape for name, value in net.state_dict().items()}
    if own not in [{name: value.shape for name, value in state.items()} for state in states]:
        return {}
    return {name: getattr(args, name) for name in architecture_flags(net)}


def flags_of_weights(path, state, parse_config):
    """Return the known flags of the network that weights belong to.

    Args:
        path: the file. If it lies in experiment/NAME/model, the experiment's flags are known.
        state: the state_dict that `read_weights` returns for it.
        parse_config: maps the path of a config.txt to the flags in it.

    Returns:
        dict of flags as `parse_args` has them; empty for an unknown network.
    """
    renamed, flags = to_edsr_names(state), {}
    # a config.txt may be broken, or of another program
    with contextlib.suppress(UserError, *HINT_ERRORS):
        flags = _flags_of_experiment(Path(path).resolve(), (state, renamed), parse_config)
    with contextlib.suppress(*HINT_ERRORS):
        flags = flags or infer_flags(renamed)
    if isinstance(flags.get("scale"), int):
        flags["scale"] = [flags["scale"]]
    return flags


def format_flags(flags):
    """Write flags as on a command line."""
    words = ((k, "+".join(map(str, v)) if isinstance(v, list) else v) for k, v in flags.items())
    return " ".join(f"--{name} {value}" for name, value in words)


def describe_fitting_flags(state):
    """Return the command-line flags that fit a state_dict; "" if unknown."""
    with contextlib.suppress(*HINT_ERRORS):
        return format_flags(infer_flags(state))
    return ""
