"""Find state dicts of other programs, and rename them to EDSR-PyTorch's names."""

import re

import torch

from model.common import MeanShift

# Keys that hold a state_dict one level down, the average before the trained weights
WRAPPERS = ("params_ema", "ema", "model_ema", "state_dict_ema", "g_ema", "params", "state_dict")
WRAPPERS += ("model_state_dict", "model", "net", "net_g", "netG", "generator", "network", "weights")
# Prefixes of all names: DataParallel and torch's averages, torch.compile, Lightning, mmagic
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "net_g.")
# The first convolution in the names of EDSR-PyTorch, and of BasicSR and mmagic
FIRST_CONVS = ("head.0.weight", "conv_first.weight")


def is_state_dict(value):
    """Return whether a value is a dict of named tensors that is not empty."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def find_state_dict(value):
    """Return the state_dict in a file's contents, plain or one level down, or None."""
    if is_state_dict(value):
        return value
    if not isinstance(value, dict):
        return None
    inner = {key: state for key, state in value.items() if is_state_dict(state)}
    known = [key for key in WRAPPERS if key in inner]
    keys = known or list(inner)
    return inner[keys[0]] if known or len(keys) == 1 else None


def strip_prefix(state, prefixes=PREFIXES):
    """Return a state_dict without the prefixes that all its names share."""
    state = {
        name: value for name, value in state.items() if name != "n_averaged"
    }  # AveragedModel's
    while prefix := next((p for p in prefixes if all(n.startswith(p) for n in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        if not state:
            break
    return state


def _strip_to_network(state):
    """Return the part of a state_dict that belongs to the network with the first convolution.

    Lightning saves all networks of a training, such as `discriminator.` and `generator.`.
    """
    for conv in FIRST_CONVS:
        found = [name for name in state if name.endswith(f".{conv}")]
        if found and conv not in state:
            prefix = min(found, key=lambda name: ("ema" not in name, len(name)))
            prefix = prefix.removesuffix(conv)
            return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    return state


def _from_basicsr(state):
    """Rename EDSR and RCAN of BasicSR, and EDSR of mmagic (and mmedit).

    They subtract the mean color without a parameter, so it is added: in [0, 255], BasicSR's
    img_range, and in [0, 1] for mmagic.
    """
    body = [match for match in (re.match(r"body\.(\d{1,4})\.", name) for name in state) if match]
    blocks = [int(n) for n in re.findall(r"residual_group\.(\d{1,4})\.", " ".join(state))]
    n_body, n_blocks = 1 + max(int(match[1]) for match in body), 1 + max(blocks, default=0)
    group, block = r"^body\.(\d+)\.residual_group\.(\d+)\.rcab\.", r"body.\1.body.\2.body."
    rules = (
        (r"^conv_first\.", "head.0."),
        (r"^body\.(\d+)\.conv1\.", r"body.\1.body.0."),
        (r"^body\.(\d+)\.conv2\.", r"body.\1.body.2."),
        (group + r"3\.attention\.1\.", block + "3.conv_du.0."),
        (group + r"3\.attention\.3\.", block + "3.conv_du.2."),
        (group, block),
        (r"^body\.(\d+)\.conv\.", rf"body.\1.body.{n_blocks}."),
        (r"^conv_after_body\.", f"body.{n_body}."),
        (r"^upsample\.(\d+)\.upsample_conv\.", lambda match: f"tail.0.{2 * int(match[1])}."),
        (r"^upsample\.", "tail.0."),
        (r"^conv_last\.", "tail.1."),
    )
    is_mmagic = any(".upsample_conv." in name for name in state)
    n_colors = state["conv_first.weight"].shape[1]
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[name] = value
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        shift = MeanShift(1 if is_mmagic else 255, n_colors, sign)
        renamed |= {f"{name}.{key}": value for key, value in shift.state_dict().items()}
    return renamed


def to_edsr_names(state):
    """Return a state_dict under EDSR-PyTorch's names; another network's without prefixes."""
    state = _strip_to_network(strip_prefix(state))
    first = state.get("conv_first.weight")
    is_basicsr = first is not None and first.dim() == 4 and first.shape[1] in (1, 3)
    is_basicsr = is_basicsr and "conv_after_body.weight" in state
    if is_basicsr and any(name.startswith("body.0.") for name in state):
        return _from_basicsr(state)
    return state
