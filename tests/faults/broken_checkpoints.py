"""Checkpoints of every broken kind, made from a good one."""

import builtins
import copy
import io
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from pathlib import Path

import torch
from generated import Content
from hypothesis import strategies as st

JUNK = [None, 0, -1, 10**30, 1.5, 1j, float("nan"), True, "", "x", b"x", [], {}, (), [[[]]]]
JUNK += [[1, "x"], {"a": 1}, {1: 2}, {"net": {}}, torch.zeros(0), torch.ones(3)]
JUNK += [torch.ones(2, 3, dtype=torch.int64), torch.tensor(float("nan"))]
NOT_FINITE = ["nan", "inf", "-inf", "1e300"]
TENSORS = "int bool complex double half sparse quantized meta shape flat expanded".split()
TENSORS += NOT_FINITE


class Gadget:
    """A value whose unpickling calls a function that makes the marker file, unless nothing in a pickle is called."""

    def __init__(self, kind, marker):
        self.kind, self.marker = kind, str(marker)

    def __reduce__(self):
        touch = f"open({self.marker!r}, 'w').close()"
        return {
            "system": (os.system, (f"touch {self.marker}",)),
            "popen": (subprocess.check_call, (["touch", self.marker],)),
            "eval": (builtins.eval, (f"__import__('os').mkdir({self.marker!r})",)),
            "exec": (builtins.exec, (touch,)),
            "open": (builtins.open, (self.marker, "w")),
            "touch": (Path.touch, (Path(self.marker),)),
            "mkdir": (os.mkdir, (self.marker,)),
            "load": (torch.load, (self.marker,)),
            "save": (torch.save, ({}, self.marker)),
        }[self.kind]


GADGETS = ["system", "popen", "eval", "exec", "open", "touch", "mkdir", "load", "save"]


def _saved(value, legacy):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _places(value, path=()):
    """List the paths to all that is nested in dicts and lists."""
    if not isinstance(value, (dict, list)):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _parent(value, path):
    for key in path[:-1]:
        value = value[key]
    return value


def _spoilt(tensor, kind, at):
    """Give a tensor with something wrong; `at` is the number of the element that is not finite."""
    if kind in NOT_FINITE and tensor.numel():
        tensor = (tensor.double() if kind == "1e300" else tensor.float()).clone()
        tensor = tensor.contiguous()
        tensor.view(-1)[at % tensor.numel()] = float(kind)
        return tensor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "int": lambda: tensor.to(torch.int32),
            "bool": lambda: tensor.bool(),
            "complex": lambda: tensor.to(torch.complex64),
            "double": lambda: tensor.double(),
            "half": lambda: tensor.half(),
            "sparse": lambda: tensor.to_sparse(),
            "quantized": lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
            "meta": lambda: tensor.to("meta"),
            "shape": lambda: tensor[None],
            "flat": lambda: tensor.reshape(-1),
            "expanded": lambda: tensor.reshape(-1)[:1].expand(10**12),
        }[kind]()


def _flipped(content, at, bits):
    """Change one byte of the largest tensor in a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    lengths = struct.unpack_from("<HH", content, largest.header_offset + 26)  # name, extra field
    start = largest.header_offset + 30 + sum(lengths)
    changed = bytearray(content)
    changed[start + at % largest.file_size] ^= bits
    return bytes(changed)


def _zip_bomb(content, kind, at):
    """Make a zip whose members are compressed, or declare more bytes than the file has."""
    if kind == "deflated":
        more = b"\0" * 10**6 * (at % 4 == 1)  # without them it is a whole checkpoint
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            files = {name: old.read(name) for name in old.namelist()}
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in files.items():
                new.writestr(name, data + more * name.endswith("data/0"))
        return file.getvalue()
    number = b"\xfe" * 4 if kind == "declared64" else (0xF0000000).to_bytes(4, "little")
    content = bytearray(content)
    start = content.rfind(b"PK\1\2") if at % 2 else content.find(b"PK\1\2")
    # sizes of the member in the central directory: compressed, uncompressed
    for offset in (20, 24):
        if kind != "uncompressed" or offset == 24:
            content[start + offset : start + offset + 4] = number
    return bytes(content)


def checkpoints(good, marker):
    """Give (kind, bytes, name): a broken checkpoint, and of kind `not finite` the name of the tensor.

    `good` are the nested values of a whole one; code in it would make the file `marker`.
    """
    return _checkpoints(good, marker).map(lambda made: (made[0], Content(made[1]), made[2]))


@st.composite
def _checkpoints(draw, good, marker):
    legacy, number = draw(st.booleans()), draw(st.integers(0, 10**6))
    kinds = "cut flip flip bits zip zip junk junk drop rename tensor tensor code wrap".split()
    kind = draw(st.sampled_from(kinds))
    whole, value = _saved(good, legacy), copy.deepcopy(good)
    places = list(_places(good))
    path = places[number % len(places)]
    if kind == "cut":
        return kind, whole[: number % len(whole)], ""
    if kind == "flip":
        content = bytearray(whole)
        at = number % len(whole) if draw(st.booleans()) else number % min(4000, len(whole))
        content[at] ^= draw(st.integers(1, 255))
        return kind, bytes(content), ""
    if kind == "bits":
        return kind, _flipped(_saved(value, False), number, draw(st.integers(1, 255))), ""
    if kind == "zip":
        bomb = draw(st.sampled_from("deflated deflated declared declared64 uncompressed".split()))
        return kind, _zip_bomb(_saved(good, False), bomb, number), ""
    if kind == "wrap":
        junk = draw(st.sampled_from(JUNK))
        wraps = [junk, {"model": junk}, {"params": {"x": junk}}, {"model": {"params": value}}]
        return kind, _saved(draw(st.sampled_from([*wraps, [value]])), legacy), ""
    if kind == "code":
        gadget = Gadget(draw(st.sampled_from(GADGETS)), marker)
        _parent(value, path)[path[-1]] = gadget
        files = [_saved(value, legacy), pickle.dumps(value if legacy else gadget)]
        return kind, draw(st.sampled_from(files)), ""
    if kind == "tensor":
        tensors = [at for at in places if isinstance(_parent(good, at)[at[-1]], torch.Tensor)]
        path = tensors[number % len(tensors)]
        change = draw(st.sampled_from(TENSORS))
        old = _parent(good, path)[path[-1]]
        _parent(value, path)[path[-1]] = _spoilt(old, change, number)
        not_finite = change in NOT_FINITE and old.is_floating_point() and old.numel() > 0
        return "not finite" if not_finite else change, _saved(value, legacy), str(path[-1])
    parent = _parent(value, path)
    if kind == "junk":
        parent[path[-1]] = draw(st.sampled_from(JUNK))
    else:
        moved = parent.pop(path[-1])
        if kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", 5, "module.", ""]))] = moved
    return kind, _saved(value, legacy), ""
