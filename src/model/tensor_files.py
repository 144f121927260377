"""Load files of tensors without running code in them, or download them.

Errors say what is wrong with a file.

Everything is checked before memory is taken for it, because a checkpoint may come from a stranger.
"""

import http.client
import pickle
import re
import sys
import zipfile
from pathlib import Path

import torch

from runtime.distributed import local_main_first
from runtime.files import UserError, bullet_list


def download_weights(url, log=print):
    """Return the file of a URL in torch.hub's folder, downloaded if it is not there.

    Args:
        url: its file name ends in - and the first 8 digits of the sha256, as in torch's model zoo.
        log: called with a line on the download.

    Raises:
        UserError: the download fails, or is another file.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    sha256 = re.search(r"-([0-9a-f]{8,})\.pth?$", name)[1]
    with local_main_first():
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


def iter_tensors(value):
    """Yield (name, tensor) for all tensors in nested dicts, lists and tuples.

    The parts of a name are joined by /.
    """
    # No recursion and no value twice: a file may nest deeply and share values without end.
    stack, seen = [("", value)], set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [(f"{name}/{key}" if name else str(key), inner) for key, inner in items]


def _require_file(path, what):
    if re.match(r"[a-z]+://", str(path)):
        raise UserError(f"{what} {path} must be a file: download it and give its path")
    path = Path(path)
    if path.is_dir():
        files = sorted(
            p.name for p in path.iterdir() if p.suffix in (".pt", ".pth", ".safetensors")
        )
        hint = f": give one of its files, {', '.join(files[:8])}" if files else ""
        raise UserError(f"{what} {path} must be a file, not a folder{hint}")
    if not path.is_file():
        raise UserError(f"{what} {path} must be an existing file: check its path")


def _check_format(path, what):
    """Check the start of a file, and all of the zip that torch.save writes.

    torch.load ignores the checksums of the zip.

    Raises:
        UserError: a file of another kind; a damaged member; a member that is compressed or larger
            than the file, which would fill the memory.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{what} {path} must not be a Git LFS pointer: fetch it by `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{what} {path} must be weights, not a web page: download the file itself")
    if path.suffix == ".onnx":
        raise UserError(
            f"{what} {path} must not be an ONNX file: give the weights it was made from"
        )
    if not start.startswith(b"PK\3\4"):  # torch.save's form before torch 1.6, or another file
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if any(m.filename.endswith("/constants.pkl") for m in members):
            raise UserError(
                f"{what} {path} must not be a TorchScript program, which holds code: "
                "save the state_dict of its network with torch.save"
            )
        if any(m.compress_type for m in members) or size > path.stat().st_size:
            raise UserError(
                f"{what} {path}: cannot be loaded, it is compressed or declares more bytes than it "
                "has: save it again with torch.save"
            )
        damaged = archive.testzip()
    if damaged:
        raise UserError(
            f"{what} {path}: cannot be loaded, {damaged} has a wrong checksum: copy it once more"
        )


def _read_safetensors(path, what):
    try:
        from safetensors import SafetensorError  # an optional package
        from safetensors.torch import load_file as load_safetensors
    except ImportError as error:
        raise UserError(
            f"{what} {path}: cannot be read without a package: pip install safetensors"
        ) from error
    try:
        return load_safetensors(path)
    except SafetensorError as error:
        raise UserError(f"{what} {path}: cannot be read: {error}") from error


def load_file(path, what="checkpoint"):
    """Load a file of tensors onto the CPU. No code in it is run (weights_only).

    Args:
        path: a file of torch.save, or a .safetensors file.
        what: names the file in errors.

    Raises:
        UserError: the file is missing, broken, or holds anything except tensors and plain values;
            or it declares more than it has.
    """
    _require_file(path, what)
    path = Path(path)
    try:
        _check_format(path, what)
        if path.suffix == ".safetensors":
            return _read_safetensors(path, what)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {path}: cannot be loaded, it holds more than tensors and plain values or is "
            "not a checkpoint. Such a file can run code: save only the state_dict"
        ) from error
    except Exception as error:  # torch.load raises anything from EOFError to KeyError
        raise UserError(
            f"{what} {path}: cannot be read, it is broken or not a checkpoint "
            f"({type(error).__name__})"
        ) from error
    for name, tensor in iter_tensors(value):
        if tensor.numel() * tensor.element_size() > path.stat().st_size:  # one number, expanded
            raise UserError(
                f"{what} {path}: cannot be loaded, {name} declares a shape of {tuple(tensor.shape)}"
                ", more than the file holds: save it again with torch.save"
            )
    return value


def check_tensors(value, path):
    """Check all tensors in nested dicts and lists that `load_file` returned.

    Raises:
        UserError: names the tensors that are sparse, quantized or without data, or hold nan or
            infinity, also after conversion to float32.
    """
    problems = []
    for name, tensor in iter_tensors(value):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            problems.append(f"{name}: is sparse, quantized or without data")
        elif not (tensor.float() if tensor.is_floating_point() else tensor).isfinite().all():
            problems.append(f"{name}: holds nan or infinity")
    if problems:
        raise UserError(
            f"checkpoint {path}: tensors that cannot be used:" + bullet_list(sorted(problems))
        )
