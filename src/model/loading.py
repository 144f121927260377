"""Load weights into networks: of this program, of published repositories, and downloads."""

import torch

from model.inferred import describe_fitting_flags, format_flags, warn_if_implausible
from model.weights import download_weights, is_state_dict, read_weights, to_edsr_names
from runtime.files import UserError, bullet_list

EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/models/"
# (EDSR of 32 blocks of 256 features?, scale): file name; the digits are the start of its sha256
EDSR_FILES = {
    (False, 2): "edsr_baseline_x2-1bc95232.pt",
    (False, 3): "edsr_baseline_x3-abf2a44e.pt",
    (False, 4): "edsr_baseline_x4-6b446fab.pt",
    (True, 2): "edsr_x2-0edfb8a3.pt",
    (True, 3): "edsr_x3-ea3ef2c6.pt",
    (True, 4): "edsr_x4-4f62e9ef.pt",
}


def _match_names(net, state):
    """Return a state_dict, renamed if its names are a known variant of the network's."""
    own = net.state_dict().keys()
    if own <= state.keys():
        return state
    renamed = to_edsr_names(state)
    renamed = net.rename(renamed) if hasattr(net, "rename") else renamed
    return renamed if len(own & renamed.keys()) > len(own & state.keys()) else state


def _same_shape_and_kind(own, other):
    """Return whether shapes are equal, and both tensors are floating point or both not."""
    return own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _differences(net, state):
    """List tensors of another shape, then of another kind, then missing ones, then surplus ones."""
    own = net.state_dict()
    lines = {"shape": [], "kind": [], "missing": [], "surplus": []}
    for name, value in own.items():
        if name not in state:
            lines["missing"].append(f"{name}: missing, the network has {tuple(value.shape)}")
        elif value.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, the network has {tuple(value.shape)}"
            lines["shape"].append(f"{name}: {shapes}")
        elif not _same_shape_and_kind(value, state[name]):
            dtypes = f"{state[name].dtype}, the network has {value.dtype}"
            lines["kind"].append(f"{name}: {dtypes}")
    for name in state.keys() - own.keys():
        lines["surplus"].append(f"{name}: {tuple(state[name].shape)}, the network has none")
    return [*lines["shape"], *lines["kind"], *lines["missing"], *sorted(lines["surplus"])]


def _mismatch(path, state, lines):
    flags = describe_fitting_flags(state)
    hint = f"\nflags that would fit it: {flags}" if flags else ""
    return UserError(f"checkpoint {path} does not fit the network:" + bullet_list(lines, 8) + hint)


def _check_range(net, state, path):
    """Check that the mean color of a checkpoint, which shows its rgb_range, is the network's."""
    own, other = net.state_dict().get("sub_mean.bias"), state.get("sub_mean.bias")
    if own is None or other is None or not _same_shape_and_kind(own, other):
        return
    if not torch.allclose(own.cpu(), other.float(), rtol=1e-3, atol=0):
        values = f"{other.tolist()}, the network has {own.tolist()} (--rgb_range)"
        raise _mismatch(path, state, [f"sub_mean.bias: {values}"])


def load_strict(net, state, path):
    """Load a state_dict of which every name, shape and kind must fit."""
    if not is_state_dict(state):
        raise UserError(f"checkpoint {path}: holds no state_dict of tensors")
    state = _match_names(net, state)
    lines = _differences(net, state)
    if lines:
        raise _mismatch(path, state, lines)
    _check_range(net, state, path)
    net.load_state_dict(state)


def load_matching(net, state, path, log):
    """Load the tensors of a state_dict that fit the network; log the rest.

    For weights of another scale, or of RCAN for HAN.
    """
    own, state = net.state_dict(), _match_names(net, state)
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and _same_shape_and_kind(own[name], value)
    }
    lines = _differences(net, state)
    if 2 * len(fitting) < len(own):
        raise _mismatch(path, state, lines)
    _check_range(net, state, path)
    net.load_state_dict(fitting, strict=False)
    log(f"Weights from {path}: {len(fitting)} of {len(own)} tensors")
    if lines:
        log("not loaded:" + bullet_list(lines, 50))


def download_edsr(args, log=print):
    """Return the published EDSR weights for the flags, downloaded if missing."""
    size = (args.n_resblocks, args.n_feats)
    name = EDSR_FILES.get((size == (32, 256), args.scale[0]))
    if args.model != "EDSR" or name is None or size not in ((16, 64), (32, 256)):
        raise UserError(
            "--pre_train download: published are EDSR of 16 blocks of 64 features and of 32 blocks "
            "of 256, x2, x3, x4"
        )
    return download_weights(EDSR_URL + name, log)


def load_pre_train(args, net, log):
    """Load --pre_train into the network: all tensors for a test, those that fit for training."""
    path = download_edsr(args, log) if args.pre_train == "download" else args.pre_train
    state = read_weights(path)
    if args.from_file:
        log(f"Flags from this file: {format_flags(args.from_file)}")
    if not args.test_only:
        load_matching(net, state, path, log)
        return
    load_strict(net, state, path)
    log(f"Weights from {path}")
    warn_if_implausible(args, net, state, path, log)
