"""Decoded training images on disk, one uncompressed .npy file each.

A patch is read from the file without the rest of the image.

The name of a cache folder contains a hash of the source folder's path. The name of a cache file
contains size and time of its source image: a changed image gets a new file. Files are written
atomically, so that several runs and machines may share a cache.
"""

import contextlib
import functools
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.image import read_image
from runtime.files import (
    UserError,
    atomic_path,
    bullet_list,
    is_utf8,
    remove_stale_temp_files,
    shorten,
)

VERSION = 3  # raise it when `read_image` gives other pixels
MAX_NAME_BYTES = 210  # of a source's name in that of its cache file


def cache_folder(args, name, sources):
    """Return the cache folder of a list of images.

    Two folders of images never share a cache.

    The default cache, in --dir_data, is named by the path in it, so that both can be moved
    together.
    """
    folder = os.path.realpath(sources[0].parent)
    if not args.dir_cache:
        folder = os.path.relpath(folder, os.path.realpath(args.dir_data))
    root = Path(args.dir_cache or Path(args.dir_data) / "cache")
    return root / f"{name.replace('/', '_')}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:10]}"


def _cache_path(folder, source):
    stat = source.stat()
    name = shorten(source.name, MAX_NAME_BYTES)
    return folder / f"{name}.{VERSION}-{stat.st_size:x}-{stat.st_mtime_ns:x}.npy"


def _cache_error(path, error, verb="written"):
    return UserError(
        f"{path}: the cache cannot be {verb} ({error}); --dir_cache takes another folder"
    )


def _write(path, image):
    try:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            header = np.lib.format.header_data_from_array_1_0(image)
            np.lib.format.write_array_header_1_0(file, header)
            # not np.save, whose error message does not mention a full disk
            file.write(np.ascontiguousarray(image).data)
    except OSError as error:
        raise _cache_error(path, error) from error


def _remove_stale(folder, current):
    """Remove outdated cache files and leftovers of killed runs; return the names that are there."""
    remove_stale_temp_files(folder)
    names = set(os.listdir(folder))
    sources = {name.rsplit(".", 2)[0] for name in current}
    for name in names - current:
        if name.endswith(".npy") and name.rsplit(".", 2)[0] in sources:
            with contextlib.suppress(OSError):  # gone meanwhile, or of another user
                (folder / name).unlink()
    return names & current


def _decode(source, target, make):
    """Write the cache file of one image; return the problem of the image, or None."""
    try:
        image = read_image(source)
        _write(target, make(image, source) if make else image)
    except (UserError, ValueError) as error:
        return str(error) if str(source) in str(error) else f"{source}: {error}"
    return None


def build_cache(sources, folder, make=None, rebuild=False, title="decoding", on_make=None):
    """Return the cache file of each image; write files that are missing or outdated.

    Args:
        sources: list of image paths in one folder.
        folder: the cache folder of these images.
        make: function (image, path) -> the image to keep; None: the image itself.
        rebuild: make every file again.
        title: text of the progress bar.
        on_make: called once if there are files to make; or None.

    Returns:
        list of paths of .npy files: (H, W, C) arrays, uint8 or uint16.
    """
    folder = Path(folder)
    targets = [_cache_path(folder, source) for source in sources]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = _remove_stale(folder, {target.name for target in targets})
    except OSError as error:
        raise _cache_error(folder, error) from error
    todo = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if rebuild or target.name not in there
    ]
    if todo and on_make:
        on_make()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: _decode(*job, make), todo)
        hidden = None if todo else True
        bar = tqdm(results, total=len(todo), desc=title, unit="image", disable=hidden)
        errors = [error for error in bar if error]
    if errors:
        raise UserError(f"{len(errors)} images cannot be used:" + bullet_list(errors))
    return targets


@functools.lru_cache(maxsize=8192)  # a process may hold 65,530 mappings on Linux
def load_mmap(path):
    """Map a file of `build_cache` into memory, as a read-only array.

    By torch rather than numpy, whose maps keep a file open each: 800 images would use up the open
    files of a process.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            reader = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
            shape, _, dtype = getattr(np.lib.format, reader)(file)
            start = file.tell()
            size = start + math.prod(shape) * dtype.itemsize
            # torch takes UTF-8 alone; Linux, where names are bytes, has another name for open files
            name = str(path) if is_utf8(path) else f"/dev/fd/{file.fileno()}"
            raw = torch.from_file(name, shared=False, size=size, dtype=torch.uint8)
    except (OSError, ValueError, RuntimeError) as error:
        raise _cache_error(path, error, "read") from error
    return raw.numpy()[start:].view(dtype).reshape(shape)
