"""Reading weights: checkpoints of this program, of the published repositories, and EDSR's downloads."""

import contextlib
import pickle
import re
import zipfile
from pathlib import Path

import torch

from data.prepare.download import fetch
from model.common import DIV2K_MEAN
from runtime.errors import UserError, bullet_list

WRAPPERS = ("params_ema", "params", "state_dict", "model")

# (EDSR of 32 blocks of 256 features?, scale): file name; the eight digits are the start of its sha256
EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/models/"
EDSR_FILES = {
    (False, 2): "edsr_baseline_x2-1bc95232.pt",
    (False, 3): "edsr_baseline_x3-abf2a44e.pt",
    (False, 4): "edsr_baseline_x4-6b446fab.pt",
    (True, 2): "edsr_x2-0edfb8a3.pt",
    (True, 3): "edsr_x3-ea3ef2c6.pt",
    (True, 4): "edsr_x4-4f62e9ef.pt",
}


def _check_members(path, what):
    """Check the zip that torch.save writes before anything in it is loaded: torch itself takes no notice of checksums.

    Raises:
        UserError: a member is damaged, or compressed or larger than the file, which would fill the memory.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # the form from before torch 1.6, or no checkpoint
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if (
            any(m.compress_type for m in members)
            or sum(m.file_size for m in members) > path.stat().st_size
        ):
            raise UserError(
                f"{what} {path}: is compressed, or declares more bytes than it has: it was not loaded"
            )
        damaged = archive.testzip()
    if damaged:
        raise UserError(
            f"{what} {path}: is damaged at {damaged} (wrong checksum): it was not loaded"
        )


def _tensors(value):
    """Yield (name, tensor) of all tensors in nested dicts, lists and tuples, each once; names are joined by /."""
    left, seen = (
        [("", value)],
        set(),
    )  # no recursion, and no value twice: nesting may be deep, and shared without end
    while left:
        name, value = left.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{name}/{key}" if name else str(key), inner) for key, inner in items]


def load_file(path, what="checkpoint"):
    """Load a file of tensors onto the CPU. No code in it is run (weights_only).

    Raises:
        UserError: the file is missing, broken, or holds anything but tensors and plain values; or it declares more than it
            has, which is found before memory is taken for it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what}: no such file: {path}")
    try:
        _check_members(path, what)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {path}: holds more than tensors and plain values, or is no checkpoint; it was not loaded, "
            "since such a file can run code"
        ) from error
    except (
        Exception
    ) as error:  # torch.load raises anything from EOFError to KeyError for a broken file
        raise UserError(
            f"{what} {path}: cannot be read, it is broken or no checkpoint ({type(error).__name__})"
        ) from error
    for name, tensor in _tensors(value):
        if tensor.numel() * tensor.element_size() > path.stat().st_size:  # one number, expanded
            raise UserError(
                f"{what} {path}: {name} declares a shape of {tuple(tensor.shape)}, more than the file holds"
            )
    return value


def check_tensors(value, path):
    """Check all tensors in nested dicts and lists that `load_file` gave.

    Raises:
        UserError: some are sparse, quantized or without data, or hold nan or infinity (also where 32 bits cannot hold a
            number): each is named.
    """
    problems = []
    for name, tensor in _tensors(value):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            problems.append(f"{name}: is sparse, quantized or without data")
        elif not (tensor.float() if tensor.is_floating_point() else tensor).isfinite().all():
            problems.append(f"{name}: holds nan or infinity")
    if problems:
        raise UserError(
            f"checkpoint {path}: tensors that cannot be used:" + bullet_list(sorted(problems))
        )


def _is_state_dict(value):
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    )


def read_weights(path):
    """Read a state_dict: plain, or wrapped in 'params_ema', 'params', 'state_dict' or 'model', with or without 'module.'.

    Raises:
        UserError: see `load_file` and `check_tensors`; also a file without named tensors.
    """
    state = load_file(path)
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not _is_state_dict(state) or not state:
        raise UserError(f"checkpoint {path}: holds no state_dict of tensors")
    check_tensors(state, path)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _fits(own, other):
    """Tell whether a tensor can take another's place: the same shape, and both of floating point or both not."""
    return own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _differences(net, state):
    """List names of another shape or kind, then those that are missing, then those left over."""
    own = net.state_dict()
    differ = [name for name in own if name in state and own[name].shape != state[name].shape]
    lines = [
        f"{name}: {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in differ
    ]
    kinds = [
        name
        for name in own
        if name in state and name not in differ and not _fits(own[name], state[name])
    ]
    lines += [f"{name}: {state[name].dtype}, the network has {own[name].dtype}" for name in kinds]
    lines += [
        f"{name}: missing, the network has {tuple(own[name].shape)}"
        for name in own
        if name not in state
    ]
    lines += [
        f"{name}: {tuple(state[name].shape)}, the network has none"
        for name in state
        if name not in own
    ]
    return lines


def infer_flags(state):
    """Read the flags off the names and shapes of a checkpoint, as far as they show; {} for an unknown network."""
    head = state.get("head.0.weight")
    if head is None or head.dim() != 4:
        return {}
    names = "\n".join(state)
    flags = {"n_feats": head.shape[0], "n_colors": head.shape[1]}
    steps = re.findall(r"^tail\.0\.\d+\.weight$", names, re.M)
    if steps:
        three = state[steps[0]].shape[0] == 9 * head.shape[0]
        flags["scale"] = 3 if three else 2 ** len(steps)
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
    mean = state.get("sub_mean.bias")
    if mean is not None and len(mean) == 3:
        flags["rgb_range"] = round(-float(mean[0]) / DIV2K_MEAN[0])
    return flags


def _mismatch(path, state, lines):
    flags = ""
    with contextlib.suppress(
        ArithmeticError, LookupError, TypeError, ValueError
    ):  # a hint must not hide what is wrong
        flags = " ".join(f"--{name} {value}" for name, value in infer_flags(state).items())
    hint = f"\nflags that would fit it: {flags}" if flags else ""
    return UserError(f"checkpoint {path} does not fit the network:" + bullet_list(lines, 8) + hint)


def _check_range(net, state, path):
    """A checkpoint carries its mean colour, and with it the rgb_range that it was trained in."""
    own, other = net.state_dict().get("sub_mean.bias"), state.get("sub_mean.bias")
    if own is None or other is None or not _fits(own, other):
        return
    if not torch.allclose(own.cpu(), other.float(), rtol=1e-3, atol=0):
        raise _mismatch(
            path,
            state,
            [f"sub_mean.bias: {other.tolist()}, the network has {own.tolist()} (--rgb_range)"],
        )


def load_strict(net, state, path):
    """Load a state_dict of which every name, shape and kind must fit.

    Raises:
        UserError: lists the first differences with both shapes, and the flags that would fit.
    """
    if not _is_state_dict(state):
        raise UserError(f"checkpoint {path}: holds no state_dict of tensors")
    lines = _differences(net, state)
    if lines:
        raise _mismatch(path, state, lines)
    _check_range(net, state, path)
    net.load_state_dict(state)


def load_matching(net, state, path, log):
    """Load what fits of a state_dict, e.g. of another scale, or of RCAN into HAN, and log what does not.

    Raises:
        UserError: less than half of the network's tensors fit: another network.
    """
    own = net.state_dict()
    fits = {name: value for name, value in state.items() if name in own and _fits(own[name], value)}
    lines = _differences(net, state)
    if 2 * len(fits) < len(own):
        raise _mismatch(path, state, lines)
    _check_range(net, state, path)
    net.load_state_dict(fits, strict=False)
    log(f"Weights from {path}: {len(fits)} of {len(own)} tensors")
    if lines:
        log("not loaded:" + bullet_list(lines, 50))


def download(args, log=print):
    """Fetch the published EDSR weights of --scale into torch.hub's folder, checked by sha256; give the file's path.

    Raises:
        UserError: no published file for these flags, or see `fetch`.
    """
    large = (args.n_resblocks, args.n_feats) == (32, 256)
    name = EDSR_FILES.get((large, args.scale[0]))
    small = (args.n_resblocks, args.n_feats) == (16, 64)
    if args.model != "EDSR" or name is None or not (large or small):
        raise UserError(
            "--pre_train download: published are EDSR of 16 blocks of 64 and of 32 of 256 features, x2, x3, x4"
        )
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not target.is_file():
        fetch(EDSR_URL + name, target, sha256=re.search(r"-([0-9a-f]{8})\.pt$", name)[1], log=log)
    return target


def load_pre_train(args, net, log):
    """Load --pre_train into the network: exactly for a test, what fits for training."""
    path = download(args, log) if args.pre_train == "download" else args.pre_train
    state = read_weights(path)
    if args.test_only:
        load_strict(net, state, path)
        log(f"Weights from {path}")
    else:
        load_matching(net, state, path, log)
