"""Infer a network's flags from a file of weights, load weights into networks, and check them."""

import contextlib
import math
import re
import shlex
from pathlib import Path

import torch

from data.image import to_channels, to_tensor
from data.resize import downsample, imresize
from model import architecture_flags, build_on_meta, format_flags, is_multi_scale, is_network
from model.common import mean_color
from model.spandrel import detect_flags, how_to_install
from model.weights import described_flags, download_weights, read_weights, to_edsr_names
from runtime.files import UserError, bullet_list

EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/models/"
# (n_resblocks, n_feats, scale): file name; the digits are the start of its sha256
EDSR_FILES = {
    (16, 64, 2): "edsr_baseline_x2-1bc95232.pt",
    (16, 64, 3): "edsr_baseline_x3-abf2a44e.pt",
    (16, 64, 4): "edsr_baseline_x4-6b446fab.pt",
    (32, 256, 2): "edsr_x2-0edfb8a3.pt",
    (32, 256, 3): "edsr_x3-ea3ef2c6.pt",
    (32, 256, 4): "edsr_x4-4f62e9ef.pt",
}
# errors of the inference for files of other networks, which are ignored
HINT_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
SIDE = 32  # LR pixels of the photograph that `_warn_if_implausible` upscales
MAX_LOSS = 3.0  # dB below bicubic. Networks that are trained with a GAN stay within it.
MAX_SHIFT = 0.02  # of the mean color, as a fraction of the maximum pixel value


def infer_flags(state):
    """Return the flags that names and shapes of EDSR, MDSR, RCAN, HAN and NLSN show.

    `state` is in EDSR-PyTorch's names. The dict is empty for another network.
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
    if rgb_range := _range_of(state):
        flags["rgb_range"] = rgb_range
    size = (flags["model"], flags["n_resblocks"], flags["n_feats"])
    if size in (("EDSR", 32, 256), ("NLSN", 32, 256)):  # published; the shapes do not show it
        flags["res_scale"] = 0.1
    return flags


def _scale_of(state, prefix):
    """Return the scale of the sub-pixel convolutions under a prefix."""
    first = state[f"{prefix}.0.weight"]
    if first.shape[0] == 9 * first.shape[1]:
        return 3
    return 2 ** sum(re.fullmatch(rf"{prefix}\.\d+\.weight", name) is not None for name in state)


def _range_of(state):
    """Return the rgb_range that a state_dict's mean color shows, or None."""
    mean = state.get("sub_mean.bias")
    if mean is None or mean.shape not in ((1,), (3,)):
        return None
    rgb_range = -float(mean[0]) / float(mean_color(len(mean))[0])
    if not 0 < rgb_range < 1e6:
        return None
    rounded = round(rgb_range)  # the mean is rounded, too, in a file of float16
    is_whole = abs(rgb_range - rounded) < 2e-3 * rgb_range
    return rounded if is_whole else float(f"{rgb_range:.3g}")


def _fitting_network(args, states):
    """Return the network of flags, without memory, if a state has its names and shapes, or None."""
    net = build_on_meta(args)
    own = {name: value.shape for name, value in net.state_dict().items()}
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    return net if own in shapes else None


def flags_of_weights(path, state, parse, read_config):
    """Return the known flags of the network that weights belong to, {} for an unknown network.

    Sources, the surest first: the flags that the file carries, the config.txt of its experiment
    (`read_config` maps its path to argv), names and shapes of the weights, spandrel. `state` is
    that of `read_weights`; `parse` maps argv to flags.
    """
    renamed, path = to_edsr_names(state), Path(path).resolve()
    described = re.match(r"--model (\S+)", described_flags(state))
    if described and not is_network(described[1]):
        text = f"{path} holds weights of --model {described[1]}, which is not in NETWORKS of"
        raise UserError(f"{text} src/model/__init__.py{how_to_install()}")
    config = path.parent.parent / "config.txt"
    for read in (lambda: shlex.split(described_flags(state)), lambda: read_config(config)):
        # a config.txt may be broken, or of another program
        with contextlib.suppress(UserError, *HINT_ERRORS):
            args = parse(read())
            if net := _fitting_network(args, (state, renamed)):
                return architecture_flags(args, net)
    with contextlib.suppress(UserError, *HINT_ERRORS):
        flags = infer_flags(renamed)
        if flags and _fitting_network(parse(shlex.split(format_flags(flags))), (renamed,)):
            return flags
    return detect_flags(state) or detect_flags(renamed)


def _match_names(net, state):
    """Return a state_dict, renamed if its names are a known variant of the network's."""
    own, renamed = net.state_dict().keys(), to_edsr_names(state)
    states = [state] if renamed.keys() == state.keys() else [state, renamed]
    if hasattr(net, "rename"):
        states = [net.rename(state) for state in states]
    return max(states, key=lambda state: (len(own & state.keys()), -len(state)))


def _same_shape_and_kind(own, other):
    """Return whether shapes are equal, and both tensors are floating point or both not."""
    return own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _differences(own, state):
    """List tensors of another shape, then of another kind, then missing ones, then surplus ones."""
    shapes, kinds, missing = [], [], []
    for name, value in own.items():
        if name not in state:
            missing.append(f"{name}: missing, the network has {tuple(value.shape)}")
        elif value.shape != (shape := tuple(state[name].shape)):
            shapes.append(f"{name}: {shape}, the network has {tuple(value.shape)}")
        elif not _same_shape_and_kind(value, state[name]):
            kinds.append(f"{name}: {state[name].dtype}, the network has {value.dtype}")
    surplus = sorted(state.keys() - own.keys())
    surplus = [f"{name}: {tuple(state[name].shape)}, the network has none" for name in surplus]
    return [*shapes, *kinds, *missing, *surplus]


def _mismatch(path, state, lines):
    hint = f"\nno network is recognized in it{how_to_install()}"
    with contextlib.suppress(*HINT_ERRORS):
        renamed = to_edsr_names(state)
        flags = infer_flags(renamed) or detect_flags(state) or detect_flags(renamed)
        flags = described_flags(state) or format_flags(flags)
        hint = f"\nflags that would fit it: {flags}" if flags else hint
    return UserError(f"checkpoint {path} does not fit the network:" + bullet_list(lines, 8) + hint)


def load_weights(net, state, path, log=None):
    """Load a state_dict of which every name, shape and kind must fit.

    With `log`, half of them must: weights of another scale, or of RCAN for HAN. It lists the rest.
    """
    own, state = net.state_dict(), _match_names(net, state)
    shared = {name: x for name, x in state.items() if name in own}
    fitting = {name: x for name, x in shared.items() if _same_shape_and_kind(own[name], x)}
    lines = _differences(own, state)
    if lines and (log is None or 2 * len(fitting) < len(own)):
        raise _mismatch(path, state, lines)
    if "sub_mean.bias" in fitting:  # the mean color shows the rgb_range
        mean, other = own["sub_mean.bias"].cpu(), state["sub_mean.bias"].float()
        if not torch.allclose(mean, other, rtol=1e-3, atol=0):
            values = f"{state['sub_mean.bias'].tolist()}, the network has {mean.tolist()}"
            raise _mismatch(path, state, [f"sub_mean.bias: {values} (--rgb_range)"])
    net.load_state_dict(fitting, strict=log is None)
    if log:
        log(f"Weights from {path}: {len(fitting)} of {len(own)} tensors")
    if log and lines:
        log("not loaded:" + bullet_list(lines, 50))


def _download_edsr(args, log):
    """Return the published EDSR weights for the flags, downloaded if missing."""
    name = EDSR_FILES.get((args.n_resblocks, args.n_feats, args.scale[0]))
    if args.model != "EDSR" or name is None:
        sizes = "16 blocks of 64 features and of 32 blocks of 256, x2, x3, x4"
        raise UserError(f"--pre_train download: published are EDSR of {sizes}")
    return download_weights(EDSR_URL + name, log)


def load_pre_train(args, net, log):
    """Load --pre_train into the network: all tensors for a test, those that fit for training."""
    path = _download_edsr(args, log) if args.pre_train == "download" else args.pre_train
    state = read_weights(path)
    if args.from_file:
        log(f"Flags from this file: {format_flags(args.from_file)}")
    load_weights(net, state, path, None if args.test_only else log)
    if args.test_only:
        log(f"Weights from {path}")
        _warn_if_implausible(args, net, state, path, log)


def _warn_if_implausible(args, net, state, path, log):
    """Log a warning if the SR of a photograph is far below bicubic, or of another mean color."""
    # Flags such as --res_scale change the function of a network and no shape of its weights, so
    # weights with the wrong flag load without an error.
    import skimage.data  # takes a second to load, and only this function needs it

    scale, rgb_range = args.scale[0], args.rgb_range
    if is_multi_scale(net) or not 2 <= scale <= 8:
        return
    hr = skimage.data.astronaut()[90 : 90 + SIDE * scale, 150 : 150 + SIDE * scale]
    lr = downsample(hr, scale)
    lr, bicubic, hr = (
        to_tensor(to_channels(image, args.n_colors))[None].float() * (rgb_range / 255)
        for image in (lr, imresize(lr, scale), hr)
    )
    was_training, device = net.training, next(net.parameters()).device
    with torch.inference_mode():
        sr = net.eval()(lr.to(device)).float().cpu()
    net.train(was_training)

    def psnr(x):
        error = (x.clamp(0, rgb_range) - hr)[:, :, scale:-scale, scale:-scale] / rgb_range
        return -10 * math.log10(float(error.square().mean()) or 1e-10)

    shift = float((sr.mean((2, 3)) - lr.mean((2, 3))).abs().max()) / rgb_range
    reasons = []
    if not psnr(sr) >= psnr(bicubic) - MAX_LOSS:
        values = f"{psnr(sr):.1f} dB, bicubic has {psnr(bicubic):.1f} dB"
        reasons.append(f"SR of a photograph has {values}")
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
