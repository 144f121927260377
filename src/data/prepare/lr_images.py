"""Make LR images of a folder of HR images by MATLAB's bicubic downsampling.

Several processes share the work.

Files that are there and up to date are skipped, each file is written atomically, and images that
cannot be used are named at the end.
"""

import filecmp
import functools
import shutil
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from data.image import TIFF, image_size, read_image, set_max_pixels, write_image
from data.pairs import match_lr
from data.resize import downsample
from runtime.files import UserError, atomic_path, remove_stale_temp_files


class MakeResult(NamedTuple):
    """Numbers of files written and, among them, replaced; a sentence for each unusable image."""

    written: int
    replaced: int
    errors: list


def missing_lr(hr_paths, lr_folder, scale):
    """List the HR images without an LR image NAMExSCALE or NAME in a folder."""
    there = {path.stem for path in lr_folder.iterdir()} if lr_folder.is_dir() else set()
    found = match_lr([path.stem for path in hr_paths], there, scale)
    return [path for path, lr in zip(hr_paths, found, strict=True) if lr is None]


def make_set(sources, lr_folder, scales, hr_folder=None, jobs=1, max_pixels=None):
    """Make LR images, NAMExS in lr_folder/XS, and copy the HR images.

    A file that is older than its source, or is not its copy, is made again.

    Args:
        sources: list of paths of HR images.
        lr_folder: folder of the folders X2 and so on.
        scales: list of int.
        hr_folder: where to copy the HR images; None: nowhere.
        jobs: processes.
        max_pixels: pixels above which an image is refused; None: the default.

    Returns:
        MakeResult.

    Raises:
        OSError: a folder cannot be made.
    """
    for folder in [hr_folder, *(lr_folder / f"X{scale}" for scale in scales)]:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temp_files(folder)
    convert = functools.partial(_convert_one, hr_folder, lr_folder, scales, max_pixels)
    if jobs == 1:
        return _count(map(convert, sources), len(sources))
    with ProcessPoolExecutor(jobs) as pool:
        try:
            return _count(pool.map(convert, sources), len(sources))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _count(results, total):
    written = replaced = 0
    errors = []
    for new, again, error in tqdm(
        results, desc="LR images", total=total, unit="image", disable=None
    ):
        written += new
        replaced += again
        errors += [error] if error else []
    return MakeResult(written, replaced, errors)


def _convert_one(hr_folder, lr_folder, scales, max_pixels, source):
    """Make the files of one HR image; returns (written, of these replaced, error or None)."""
    if max_pixels:
        set_max_pixels(max_pixels)
    done = []  # for each file written, whether there was one before
    try:
        _write_files(source, hr_folder, lr_folder, scales, done)
    except UserError as error:
        return len(done), sum(done), str(error)
    except OSError as error:
        return len(done), sum(done), f"{source}: {error}"
    return len(done), sum(done), None


def _write_files(source, hr_folder, lr_folder, scales, done):
    size = image_size(source)
    if min(size) < max(scales):
        raise UserError(f"{source}: {size[1]}x{size[0]} pixels are too few for scale {max(scales)}")
    copy = hr_folder / source.name if hr_folder else source
    # LR images of the former content may look new enough
    is_changed = copy.is_file() and not _is_same(copy, source)
    ending = ".tif" if source.suffix.lower() in TIFF else ".png"  # 16-bit color PNG needs OpenCV
    targets = {s: lr_folder / f"X{s}" / f"{source.stem}x{s}{ending}" for s in scales}
    todo = {
        s: t
        for s, t in targets.items()
        if is_changed or not _is_lr(t, source, (size[0] // s, size[1] // s))
    }
    image = read_image(source) if todo else None
    for scale, target in todo.items():
        existed = target.is_file()
        write_image(target, downsample(image, scale))
        done.append(existed)
    if is_changed or not copy.is_file():  # last, so that a stop before it leaves the change visible
        existed = copy.is_file()
        _copy(source, copy)
        done.append(existed)


def _is_lr(target, source, size):
    """Return whether a file is an image (height, width) `size`, not older than its source."""
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        return False
    try:
        return image_size(target) == size
    except UserError:
        return False


def _is_same(target, source):
    """Return whether two files are the same; the same size and time are enough."""
    return target.samefile(source) or filecmp.cmp(target, source)


def _copy(source, target):
    with atomic_path(target) as partial:
        shutil.copy2(source, partial)
