"""Read files of weights, of this program and of others, without running code in them.

Everything is checked before memory is taken for it, because a checkpoint may come from a stranger.
"""

import contextlib
import http.client
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from model.common import MeanShift
from runtime.distributed import in_turn, local_rank
from runtime.files import UserError, bullet_list
from runtime.process import pip_install

# Keys that hold a state_dict further down, the average before the trained weights
WRAPPERS = ("params_ema", "ema", "model_ema", "state_dict_ema", "g_ema", "params", "state_dict")
WRAPPERS += ("model_state_dict", "model", "net", "net_g", "netG", "generator", "network", "weights")
# Prefixes of all names: DataParallel and torch's averages, torch.compile, Lightning, mmagic
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "net_g.")
# The first convolution in the names of EDSR-PyTorch, and of BasicSR and mmagic
FIRST_CONVS = ("head.0.weight", "conv_first.weight")
# What pickle needs for arrays and scalars of numbers, under the names of numpy 1 and numpy 2
_NUMPY = [np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"}]
_NUMPY += [
    (value.__reduce__()[0], f"{package}.multiarray.{value.__reduce__()[0].__name__}")
    for value in (np.float64(0), np.zeros(1))
    for package in ("numpy.core", "numpy._core")
]


def download_weights(url, log=print):
    """Return the file of a URL in torch.hub's folder, downloaded if it is not there.

    The name in `url` ends in - and the first digits of the sha256, as in torch's model zoo.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    sha256 = re.search(r"-([0-9a-f]{8,})\.pth?$", name)[1]
    with in_turn(local_rank() == 0):
        if path.is_file():
            return path
        log(f"Downloading {url} to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            if "hash" in reason:
                reason = f"another file arrived, its sha256 does not start with {sha256}"
            raise UserError(
                f"{url}: cannot be downloaded: {reason}. Download it by other means to {path}"
            ) from error
    return path


def _walk(value):
    """Yield (path, value) for all values in nested dicts, lists and tuples; a path is a tuple."""
    # No recursion and no container twice: a file may nest deeply and share values without end.
    stack, seen = [((), value)], set()
    while stack:
        path, value = stack.pop()
        yield path, value
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [((*path, key), inner) for key, inner in items]


def iter_tensors(value):
    """Yield (name, tensor) for all tensors in nested containers; / joins the parts of a name."""
    for path, inner in _walk(value):
        if isinstance(inner, torch.Tensor):
            yield "/".join(map(str, path)), inner


def _problem_of_file(path):
    """Return the reason why a file cannot hold weights, by its start and its zip archive, or ""."""
    # torch.load ignores the checksums of the zip. A member that is compressed, or larger than the
    # file, would fill the memory.
    if path.is_dir():
        suffixes = (".pt", ".pth", ".safetensors")
        files = sorted(p.name for p in path.iterdir() if p.suffix in suffixes)[:8]
        hint = f": give one of its files, {', '.join(files)}" if files else ""
        return f" must be a file, not a folder{hint}"
    if not path.is_file():
        return " must be an existing file: check its path"
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return " must not be a Git LFS pointer: fetch it by `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return " must be weights, not a web page: download the file itself"
    if path.suffix == ".onnx":
        return " must not be an ONNX file: give the weights it was made from"
    if not start.startswith(b"PK\3\4"):  # torch.save's form before torch 1.6, or another file
        return ""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.filename.endswith("/constants.pkl") for m in members):
            return " must not be a TorchScript program, which holds code: save its state_dict alone"
        size = sum(member.file_size for member in members)
        if any(m.compress_type for m in members) or size > path.stat().st_size:
            problem = "it is compressed or declares more bytes than it has"
            return f": cannot be loaded, {problem}: save it again with torch.save"
        damaged = archive.testzip()
    if damaged:
        return f": cannot be loaded, {damaged} has a wrong checksum: copy it once more"
    return ""


def load_file(path, what="checkpoint"):
    """Load a file of torch.save or safetensors onto the CPU. No code in it is run (weights_only).

    It may hold tensors, plain values, and numbers and arrays of numpy. `what` names it in errors.
    """
    if re.match(r"[a-z]+://", str(path)):
        raise UserError(f"{what} {path} must be a file: download it and give its path")
    path = Path(path)
    try:
        if problem := _problem_of_file(path):
            raise UserError(f"{what} {path}{problem}")
        if path.suffix == ".safetensors":
            from safetensors.torch import load  # an optional package

            value = load(path.read_bytes())
        else:  # opened here: torch takes no name that is not UTF-8
            with torch.serialization.safe_globals(_NUMPY), open(path, "rb") as file:
                value = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except ImportError as error:
        hint = pip_install("safetensors")
        raise UserError(f"{what} {path}: cannot be read without a package: {hint}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {path}: cannot be loaded, it holds more than tensors and plain values or is "
            "not a checkpoint. Such a file can run code: save only the state_dict"
        ) from error
    except Exception as error:  # torch.load raises anything from EOFError to KeyError
        reason = f"it is broken or not a checkpoint ({type(error).__name__})"
        raise UserError(f"{what} {path}: cannot be read, {reason}") from error
    for name, tensor in iter_tensors(value):
        if tensor.numel() * tensor.element_size() > path.stat().st_size:  # one number, expanded
            problem = f"{name} declares a shape of {tuple(tensor.shape)}, more than the file holds"
            raise UserError(f"{what} {path}: cannot be loaded, {problem}: save it with torch.save")
    return value


def check_tensors(value, path):
    """Check that no tensor of a file is sparse, quantized or without data, or holds nan."""
    problems = []
    for name, tensor in iter_tensors(value):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            problems.append(f"{name}: is sparse, quantized or without data")
        elif not (tensor.float() if tensor.is_floating_point() else tensor).isfinite().all():
            problems.append(f"{name}: holds nan or infinity")
    if problems:
        problems = bullet_list(sorted(problems))
        raise UserError(f"checkpoint {path}: tensors that cannot be used:{problems}")


def read_weights(path):
    """Return the state_dict in a file, at any depth, without the prefixes of DDP and compile."""
    state = _find_state_dict(load_file(path))
    if state is None:
        raise UserError(f"checkpoint {path}: holds no state_dict of tensors, or several")
    check_tensors(state, path)
    return _strip_prefix(state, ("module.", "_orig_mod."))


def described_flags(state):
    """Return the flags that a network of this program writes into its state_dict, or ""."""
    metadata = getattr(state, "_metadata", None)
    root = metadata.get("") if isinstance(metadata, dict) else None
    flags = root.get("flags") if isinstance(root, dict) else None
    return flags if isinstance(flags, str) else ""


def as_state_dict(value):
    """Return a dict of named tensors, arrays converted; None for another value or an empty dict."""
    if isinstance(value, dict) and any(isinstance(v, np.ndarray) for v in value.values()):
        with contextlib.suppress(TypeError):  # arrays of another kind than numbers
            value = {k: torch.as_tensor(v) if np.ndim(v) else v for k, v in value.items()}
    is_state = isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    )
    return value if is_state and value else None


def _find_state_dict(value):
    """Return the state_dict in a file's contents, plain or at any depth, or None."""
    # Of several, it is the one under the key that stands first in WRAPPERS, then the least deep
    # one. None if two are alike.
    found = {}
    for path, inner in _walk(value):
        if (state := as_state_dict(inner)) is not None:
            ranks = [WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS) for key in path]
            key = (min(ranks, default=0), len(path), tuple(ranks[-1:]))
            found.setdefault(key, []).append(state)
    states = found[min(found)] if found else []
    return states[0] if len(states) == 1 else None


def _strip_prefix(state, prefixes):
    """Return a state_dict without the prefixes that all its names share."""
    if "n_averaged" in state:  # AveragedModel's
        state = {name: value for name, value in state.items() if name != "n_averaged"}
    while state and (
        prefix := next((p for p in prefixes if all(n.startswith(p) for n in state)), "")
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _from_basicsr(state):
    """Rename EDSR and RCAN of BasicSR, and EDSR of mmagic (and mmedit)."""
    # They subtract the mean color without a parameter, so it is added: in [0, 255], BasicSR's
    # img_range, and in [0, 1] for mmagic.
    names = "\n".join(state)
    n_body = 1 + max(map(int, re.findall(r"^body\.(\d{1,4})\.", names, re.M)))
    n_blocks = 1 + max(map(int, re.findall(r"residual_group\.(\d{1,4})\.", names)), default=0)
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
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[name] = value
    n_colors = state["conv_first.weight"].shape[1]
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        shift = MeanShift(1 if ".upsample_conv." in names else 255, n_colors, sign)
        renamed |= {f"{name}.{key}": value for key, value in shift.state_dict().items()}
    return renamed


def to_edsr_names(state):
    """Return a state_dict under EDSR-PyTorch's names; another network's without prefixes."""
    state = _strip_prefix(state, PREFIXES)
    # Lightning saves all networks of a training, such as `discriminator.` and `generator.`: take
    # the one with the first convolution of an SR network.
    for conv in FIRST_CONVS:
        found = [name for name in state if name.endswith(f".{conv}")]
        if found and conv not in state:
            name = min(found, key=lambda name: ("ema" not in name, len(name)))
            prefix = name.removesuffix(conv)
            state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            break
    first = state.get("conv_first.weight")
    is_conv = first is not None and first.dim() == 4 and first.shape[1] in (1, 3)
    is_basicsr = is_conv and any(name.startswith("body.0.") for name in state)
    return _from_basicsr(state) if is_basicsr and "conv_after_body.weight" in state else state
