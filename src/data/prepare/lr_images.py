"""Making sets: LR images of a folder of HR images by MATLAB's bicubic downsampling, in several processes.

What is done is skipped, each file appears whole or not at all, and images that cannot be used are named at the end.
"""

import filecmp
import shutil
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from data.image import image_size, read_image, write_image
from data.resize import downsample
from runtime.errors import UserError
from runtime.files import atomic_path, remove_stale_temp_files


class Made(NamedTuple):
    """What `make_set` did: files written, those of them that replaced a file, and a line for each image it cannot use."""

    written: int
    replaced: int
    errors: list


def missing_lr(hr_paths, lr_folder, scale):
    """List the HR images that have no LR image NAMExSCALE or NAME in a folder, which may be missing."""
    there = {path.stem for path in lr_folder.iterdir()} if lr_folder.is_dir() else set()
    return [hr for hr in hr_paths if not {f"{hr.stem}x{scale}", hr.stem} & there]


def make_set(sources, lr_folder, scales, hr_folder=None, jobs=1):
    """Make the LR images of HR images, NAMExS in lr_folder/XS, and copy the HR images to a folder.

    A file that is older than its source, or is not its copy, is made again.

    Args:
        sources: list of paths of HR images.
        lr_folder: folder of the folders X2 and so on.
        scales: list of int.
        hr_folder: where to copy the HR images; None: nowhere.
        jobs: processes.

    Returns:
        Made.

    Raises:
        OSError: a folder cannot be made.
    """
    for folder in [hr_folder, *(lr_folder / f"X{scale}" for scale in scales)]:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temp_files(folder)
    arguments = ((source, hr_folder, lr_folder, scales) for source in sources)
    if jobs == 1:
        return _count(map(_convert_one, arguments), len(sources))
    with ProcessPoolExecutor(jobs) as pool:
        try:
            return _count(pool.map(_convert_one, arguments), len(sources))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _count(results, total):
    written = replaced = 0
    errors = []
    for new, again, error in tqdm(
        results, total=total, desc="LR images", unit="image", disable=None
    ):
        written += new
        replaced += again
        errors += [error] if error else []
    return Made(written, replaced, errors)


def _convert_one(arguments):
    """Make the files of one HR image; give (files written, files replaced among them, what is wrong or None)."""
    source, hr_folder, lr_folder, scales = arguments
    done = []  # for each file written, whether there was one before

    def make(target, write):
        before = target.is_file()
        write()
        done.append(before)

    error = None
    try:
        size = image_size(source)
        if min(size) < max(scales):
            raise UserError(
                f"{source}: {size[1]}x{size[0]} pixels are too few for scale {max(scales)}"
            )
        copy = hr_folder / source.name if hr_folder else source
        changed = copy.is_file() and not _is_same(
            copy, source
        )  # LR images of the former content may look new enough
        ending = (
            ".tif" if source.suffix.lower() in (".tif", ".tiff") else ".png"
        )  # PNG as written here has no 16-bit colour
        targets = {s: lr_folder / f"X{s}" / f"{source.stem}x{s}{ending}" for s in scales}
        todo = {
            s: t
            for s, t in targets.items()
            if changed or not _is_lr(t, source, (size[0] // s, size[1] // s))
        }
        if todo:
            image = read_image(source)
            for scale, target in todo.items():
                make(target, lambda t=target, s=scale: write_image(t, downsample(image, s)))
        if (
            changed or not copy.is_file()
        ):  # last, so that a stop before it leaves the change to be seen again
            make(copy, lambda: _copy(source, copy))
    except UserError as problem:
        error = str(problem)
    except OSError as problem:
        error = f"{source}: {problem}"
    return len(done), sum(done), error


def _is_lr(target, source, size):
    """Tell whether a file is there, not older than its source, and an image of the (height, width) `size`."""
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        return False
    try:
        return image_size(target) == size
    except UserError:
        return False


def _is_same(target, source):
    """Tell whether two files hold the same; the same size and time, which a copy keeps, are enough."""
    return target.samefile(source) or filecmp.cmp(target, source)


def _copy(source, target):
    with atomic_path(target) as partial:
        shutil.copy2(source, partial)
