"""Decoded training images on disk, an uncompressed .npy file each: a patch is read by itself.

The name of a cache folder contains a hash of the source folder's path. The name of a cache file
contains size and time of its source image: a changed image gets a new file. Files are written
atomically, so that several runs and machines may share a cache.
"""

import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.checks import spread_indices
from data.image import read_image
from data.pairs import PairSummary, cache_error, check_pair, load_array, summarize_rows
from runtime.files import UserError, atomic_path, bullet_list, remove_stale_temp_files, shorten
from runtime.threads import own_cores

VERSION = 3  # raise it when `read_image` gives other pixels
SUMMARY_VERSION = 4  # raise it when a check or a thumbnail gives other values
MAX_NAME_BYTES = 210  # of a source's name in that of its cache file
MAX_ALIGNED = 2000  # pairs whose alignment is checked


def cache_folder(args, name, sources):
    """Return the cache folder of a list of images; two folders of images never share one.

    The default cache, in --dir_data, is named by the path in it, so both can be moved together.
    """
    folder = os.path.realpath(sources[0].parent)
    if not args.dir_cache:
        folder = os.path.relpath(folder, os.path.realpath(args.dir_data))
    root = Path(args.dir_cache or Path(args.dir_data) / "cache")
    return root / f"{name.replace('/', '_')}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:10]}"


def _write(path, image):
    try:
        with atomic_path(path) as partial, open(partial, "wb") as file:
            header = np.lib.format.header_data_from_array_1_0(image)
            np.lib.format.write_array_header_1_0(file, header)
            # not np.save, whose error message does not mention a full disk
            file.write(np.ascontiguousarray(image).data)
    except OSError as error:
        raise cache_error(path, error, "written") from error


def _find_cached(folder, sources):
    """Return the cache file of each source, and the set of those there; remove outdated ones."""
    targets = []
    for source in sources:
        stat, name = source.stat(), shorten(source.name, MAX_NAME_BYTES)
        targets.append(folder / f"{name}.{VERSION}-{stat.st_size:x}-{stat.st_mtime_ns:x}.npy")
    current = {target.name for target in targets}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temp_files(folder)
        names = set(os.listdir(folder))
    except OSError as error:
        raise cache_error(folder, error, "written") from error
    stems = {name.rsplit(".", 2)[0] for name in current}
    for name in names - current:
        if name.endswith(".npy") and name.rsplit(".", 2)[0] in stems:
            with suppress(OSError):  # gone meanwhile, or of another user
                (folder / name).unlink()
    return targets, {folder / name for name in names & current}


def _load_summary(path, key):
    """Return the PairSummary of a file with that key, or None."""
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with suppress(*unreadable), np.load(path, allow_pickle=False) as file:
        if str(file["key"]) == key:
            return PairSummary(file["sizes"], file["thumbnails"], file["problems"].tolist())
    return None


def _write_and_check(pair, files, names, scale, make, rebuild, align):
    """Write the files of a pair that are missing; return its `check_pair` or an error."""

    def load_or_write(target, make_image):
        if not rebuild and target.is_file():  # maybe of another run that has started meanwhile
            return load_array(target)
        image = make_image()
        _write(target, image)
        return image

    (hr_path, lr_path), (hr_file, lr_file) = pair, files
    path, lr = hr_path, None
    try:
        hr = load_or_write(hr_file, lambda: read_image(hr_path))
        if lr_path:
            path = lr_path
            lr = load_or_write(lr_file, lambda: read_image(lr_path))
        elif lr_file:
            lr = load_or_write(lr_file, lambda: make(hr, hr_path))
        return check_pair(hr, lr, scale, names, align and bool(lr_path))
    except UserError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"


def cache_pairs(pairs, scale, hr_folder, lr_folder, make=None, rebuild=False, title=None):
    """Write the cache files of pairs that are missing or outdated, and check the pairs.

    `pairs` are image paths (HR, LR); an LR that is None is make(HR pixels, HR path). Without
    `lr_folder` there is no LR. Returns triples (HR, LR or None, name) with paths of .npy files,
    (H, W, C), uint8 or uint16; and their PairSummary, which is kept until an image changes.
    """
    names = [(str(hr), str(lr or hr)) for hr, lr in pairs]
    hr_files, cached = _find_cached(hr_folder, [hr for hr, _ in pairs])
    lr_files, summary_path = [None] * len(pairs), hr_folder.parent / f"pairs_X{scale}.npz"
    if lr_folder:
        lr_files, lr_cached = _find_cached(lr_folder, [lr or hr for hr, lr in pairs])
        cached, summary_path = cached | lr_cached, summary_path.with_stem(f"pairs_{lr_folder.name}")
    files = list(zip(hr_files, lr_files, strict=True))
    triples = [(*row, name) for row, (name, _) in zip(files, names, strict=True)]
    text = "\n".join([f"{SUMMARY_VERSION} {scale}", *map(str, triples)])
    key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()  # names are bytes
    is_complete = not rebuild and cached.issuperset(filter(None, hr_files + lr_files))
    if is_complete and (summary := _load_summary(summary_path, key)):
        return triples, summary
    aligned = set(spread_indices(len(pairs), MAX_ALIGNED))

    def work(i):
        return _write_and_check(pairs[i], files[i], names[i], scale, make, rebuild, i in aligned)

    # decoding a photograph takes up to half a GB, and a container may allow few of the cores
    with ThreadPoolExecutor(min(16, len(own_cores()))) as pool:
        results = pool.map(work, range(len(pairs)))
        rows = list(tqdm(results, total=len(pairs), desc=title, unit="image", disable=None))
    errors = [row for row in rows if isinstance(row, str)]
    if errors:
        raise UserError(f"{len(errors)} images cannot be used:" + bullet_list(errors))
    summary = summarize_rows(rows)
    fields = summary._asdict() | {"problems": np.array(summary.problems, str)}
    # a cache that is shared and read-only is checked again each time
    with suppress(OSError), atomic_path(summary_path) as partial, open(partial, "wb") as file:
        np.savez(file, key=key, **fields)
    return triples, summary
