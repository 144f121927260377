"""Decoded training images on disk, one uncompressed .npy file each, so that a patch is read without the whole image.

The name of a cache file holds size and time of its source, so a changed source is build_cache anew; files are written under
another name and then moved, so that a half-written one is never seen.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.image import read_image
from data.resize import downsample
from runtime.errors import UserError, bullet_list
from runtime.files import atomic_path, remove_stale_temp_files

VERSION = 2  # raise it when `read_image` or `downsample` gives other pixels


def _cache_path(folder, source):
    stat = source.stat()
    return folder / f"{source.name}.{VERSION}-{stat.st_size:x}-{stat.st_mtime_ns:x}.npy"


def _write(path, image):
    try:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, np.lib.format.header_data_from_array_1_0(image)
            )
            file.write(
                np.ascontiguousarray(image).data
            )  # numpy's own writing does not say what went wrong
    except OSError as error:
        raise UserError(
            f"{path}: the cache cannot be written ({error}); --dir_cache takes another folder"
        ) from error


def _remove_stale(folder, current):
    """Remove cache files of sources that are among `current` in an older state, and leftovers of a killed run."""
    remove_stale_temp_files(folder)
    sources = {name.rsplit(".", 2)[0] for name in current}
    for path in folder.iterdir():
        if (
            path.suffix == ".npy"
            and path.name not in current
            and path.name.rsplit(".", 2)[0] in sources
        ):
            path.unlink(missing_ok=True)


def build_cache(sources, folder, downscale=None, rebuild=False, title="decoding"):
    """Give the cache file of each image, made where it is missing or older than its source.

    Args:
        sources: list of image paths, each with a name of its own.
        folder: the cache folder of these images; made where it is missing.
        downscale: None, or the integer scale by which images are downsampled before they are kept.
        rebuild: make every file anew.
        title: text of the progress bar.

    Returns:
        list of paths of .npy files: (H, W, C) arrays, uint8 or uint16.

    Raises:
        UserError: images that cannot be read (all of them are named), or a cache that cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error}); --dir_cache takes another folder"
        ) from error
    targets = [_cache_path(folder, source) for source in sources]
    todo = [(s, t) for s, t in zip(sources, targets, strict=True) if rebuild or not t.is_file()]
    _remove_stale(folder, {target.name for target in targets})

    def make(job):
        source, target = job
        try:
            image = read_image(source)
            _write(target, downsample(image, downscale) if downscale else image)
        except (UserError, ValueError) as error:
            return str(error) if str(source) in str(error) else f"{source}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(make, todo),
            total=len(todo),
            desc=title,
            unit="image",
            disable=None if todo else True,
        )
        errors = [error for error in bar if error]
    if errors:
        raise UserError(f"{len(errors)} images cannot be used:" + bullet_list(errors))
    return targets


@functools.lru_cache(maxsize=8192)  # a process may hold 65,530 mappings on Linux
def load_mmap(path):
    """Map a file that `build_cache` gave into memory, as an array that is not to be written to.

    By torch rather than numpy, whose maps keep a file open each: a set of 800 images would use up what a process may open.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        start = file.tell()
    whole = torch.from_file(
        str(path),
        shared=False,
        size=start + int(np.prod(shape)) * dtype.itemsize,
        dtype=torch.uint8,
    )
    return whole.numpy()[start:].view(dtype).reshape(shape)
