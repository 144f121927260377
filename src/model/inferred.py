"""Infer a network's flags from its weights, and check that it is the right network.

Sources of flags, the surest first: the flags that the file carries, the config.txt of its
experiment, names and shapes of the weights, the detection of spandrel.
"""

import contextlib
import math
import re
import shlex
from pathlib import Path

import torch

from data.image import to_channels, to_tensor
from data.resize import downsample, imresize
from model import architecture_flags, build_on_meta, is_multi_scale, is_network, to_argv
from model.common import mean_color
from model.spandrel import detect_flags
from model.weights import described_flags, to_edsr_names
from runtime.files import UserError

# Errors of the inference for files of other networks. They are ignored, because the inference only
# gives a hint in another error.
HINT_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
SIDE = 32  # LR pixels of the photograph that `warn_if_implausible` upscales
MAX_LOSS = 3.0  # dB below bicubic. Networks that are trained with a GAN stay within it.
MAX_SHIFT = 0.02  # of the mean color, as a fraction of the maximum pixel value


def infer_flags(state):
    """Return the flags that names and shapes of EDSR, MDSR, RCAN, HAN and NLSN show.

    Args:
        state: state_dict in EDSR-PyTorch's names.

    Returns:
        dict, empty for another network.
    """
    head = state.get("head.0.weight")
    if head is None or head.dim() != 4:
        return {}
    names = "\n".join(state)
    flags = {"n_feats": head.shape[0], "n_colors": head.shape[1]}
    upsamplers = re.findall(r"^(tail\.0|upsample\.\d+)\.0\.weight$", names, re.M)
    if upsamplers:
        flags["scale"] = [_scale_of(state, prefix) for prefix in upsamplers]
    grouped = re.findall(r"^body\.(\d+)\.body\.(\d+)\.body\.0\.weight$", names, re.M)
    if grouped:
        flags["model"] = "HAN" if "la.gamma" in state else "RCAN"
        flags["n_resgroups"] = len({group for group, _ in grouped})
        flags["n_resblocks"] = len({block for _, block in grouped})
        squeeze = state.get("body.0.body.0.body.3.conv_du.0.weight")
        if squeeze is not None:
            flags["reduction"] = head.shape[0] // squeeze.shape[0]
    else:
        is_mdsr = "pre_process.0.0.body.0.weight" in state
        flags["model"] = "NLSN" if "conv_match" in names else "MDSR" if is_mdsr else "EDSR"
        flags["n_resblocks"] = len(re.findall(r"^body\.\d+\.body\.0\.weight$", names, re.M))
    # Another network, or a file made to fill the memory: the convolutions of the blocks are missing
    n_blocks = flags["n_resblocks"] * flags.get("n_resgroups", 1)
    n_values = sum(value.numel() for value in state.values())
    if not n_blocks or n_values < 18 * n_blocks * flags["n_feats"] ** 2:
        return {}
    return flags | _infer_range(state) | _published_flags(flags)


def _scale_of(state, prefix):
    """Return the scale of the sub-pixel convolutions under a prefix."""
    first = state[f"{prefix}.0.weight"]
    if first.shape[0] == 9 * first.shape[1]:
        return 3
    return 2 ** sum(re.fullmatch(rf"{prefix}\.\d+\.weight", name) is not None for name in state)


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


def _fits(args, states):
    """Return whether one of the states has the names and shapes of the network of flags."""
    own = {name: value.shape for name, value in build_on_meta(args).state_dict().items()}
    return own in [{name: value.shape for name, value in state.items()} for state in states]


def flags_of_weights(path, state, parse, read_config):
    """Return the known flags of the network that weights belong to.

    Args:
        path: the file. If it lies in experiment/NAME/model, the experiment's flags are known.
        state: the state_dict that `read_weights` returns for it.
        parse: maps argv to flags.
        read_config: maps the path of a config.txt to argv.

    Returns:
        dict of flags as `parse_args` has them; empty for an unknown network.
    """
    renamed, path = to_edsr_names(state), Path(path).resolve()
    described = shlex.split(described_flags(state))
    if described and not is_network(described[1]):
        raise UserError(
            f"{path} holds weights of --model {described[1]}, which is not in NETWORKS of "
            "src/model/__init__.py"
        )
    config = path.parent.parent / "config.txt"
    for read in (lambda: described, lambda: read_config(config)):
        # a config.txt may be broken, or of another program
        with contextlib.suppress(UserError, *HINT_ERRORS):
            args = parse(read())
            if _fits(args, (state, renamed)):
                names = architecture_flags(build_on_meta(args))
                return {name: getattr(args, name) for name in names}
    with contextlib.suppress(UserError, *HINT_ERRORS):
        flags = infer_flags(renamed)
        if flags and _fits(parse(to_argv(flags)), (renamed,)):
            return flags
    return detect_flags(renamed)


def format_flags(flags):
    """Write flags as on a command line."""
    return shlex.join(to_argv(flags))


def describe_fitting_flags(state):
    """Return the command-line flags that fit a state_dict; "" if unknown."""
    with contextlib.suppress(*HINT_ERRORS):
        renamed = to_edsr_names(state)
        flags = infer_flags(renamed)
        return described_flags(state) or format_flags(flags or detect_flags(renamed))
    return ""


# -------------------------------------------------------------------------- is the SR plausible?


def _photograph(scale):
    """Return (LR, HR) of a part of a photograph, uint8 (H, W, 3)."""
    import skimage.data  # takes a second to load, and only this function needs it

    hr = skimage.data.astronaut()[90 : 90 + SIDE * scale, 150 : 150 + SIDE * scale]
    return downsample(hr, scale), hr


def _psnr(sr, hr, scale, rgb_range):
    """Return the PSNR of all channels inside a border of `scale` pixels."""
    error = (sr.clamp(0, rgb_range) - hr)[:, :, scale:-scale, scale:-scale] / rgb_range
    return -10 * math.log10(float(error.square().mean()) or 1e-10)


def warn_if_implausible(args, net, state, path, log):
    """Log a warning if the SR of a photograph is far below bicubic, or of another mean color.

    Flags such as --res_scale change the function of a network and no shape of its weights, so
    weights with the wrong flag load without an error.

    Args:
        args: the flags: scale, n_colors, rgb_range and those of the network.
        net: the network, on any device.
        state: the weights as they were read.
        path: the file of the weights, for the warning.
        log: called with the warning.
    """
    scale, rgb_range = args.scale[0], args.rgb_range
    if is_multi_scale(net) or not 2 <= scale <= 8:
        return
    lr, hr = _photograph(scale)
    lr, bicubic, hr = (
        to_tensor(to_channels(image, args.n_colors))[None].float() * (rgb_range / 255)
        for image in (lr, imresize(lr, scale), hr)
    )
    was_training, device = net.training, next(net.parameters()).device
    with torch.inference_mode():
        sr = net.eval()(lr.to(device)).float().cpu()
    net.train(was_training)
    psnr, reference = (_psnr(x, hr, scale, rgb_range) for x in (sr, bicubic))
    shift = float((sr.mean((2, 3)) - lr.mean((2, 3))).abs().max()) / rgb_range
    reasons = []
    if not psnr >= reference - MAX_LOSS:
        reasons.append(f"SR of a photograph has {psnr:.1f} dB, bicubic has {reference:.1f} dB")
    if not shift <= MAX_SHIFT:
        reasons.append(f"its mean color is off by {100 * shift:.0f} %")
    if reasons:
        known = infer_flags(to_edsr_names(state)).keys() | args.from_file.keys()
        names = [name for name in getattr(net, "flags", ()) if name not in known]
        names += [] if "rgb_range" in names or shift <= MAX_SHIFT else ["rgb_range"]
        flags = ", ".join(f"--{name} (here {getattr(args, name)})" for name in names)
        log(
            f"WARNING: {path}: {'; '.join(reasons)}. The weights are hardly trained, or were "
            f"trained with other flags{f' than the file shows. Check {flags}' if flags else ''}"
        )
