"""Make LR images of a folder of HR images by a degradation. Several processes share the work.

Files that are there and up to date are skipped, each file is written atomically, and images that
cannot be used are named at the end.
"""

import filecmp
import functools
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.degradation import DEGRADATIONS, fingerprint, image_lr
from data.image import TIFF, image_size, read_image, set_max_pixels, write_image
from data.pairs import match_lr, stem
from runtime.files import UserError, atomic_path, atomic_write, remove_stale_temp_files

MARK = ".degradation"  # in a folder of LR images: what made them; without this file, BI


class Job(NamedTuple):
    """Flags of the work: folders (hr: where to copy HR, or None), scales, seed, degradation."""

    hr: Path | None
    lr: Path
    scales: list
    degradation: str = "BI"
    seed: int = 1
    max_pixels: int | None = None


class MakeResult(NamedTuple):
    """Numbers of files written and, among them, replaced; a sentence for each unusable image."""

    written: int
    replaced: int
    errors: list


def missing_lr(hr_paths, lr_folder, scale):
    """List the HR images without an LR image NAMExSCALE or NAME in a folder."""
    files = lr_folder.iterdir() if lr_folder.is_dir() else ()
    there = {stem(path) for path in files if path.name[0] != "."}
    found = match_lr([stem(path) for path in hr_paths], there, scale)
    return [path for path, lr in zip(hr_paths, found, strict=True) if lr is None]


def make_set(sources, job, processes=1):
    """Make LR images, NAMExS in job.lr/XS, and copy the HR images.

    A file that is older than its source, is not its copy, or is made by another degradation is
    made again. Returns MakeResult.
    """
    for folder in [job.hr, *(job.lr / f"X{scale}" for scale in job.scales)]:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temp_files(folder)
    marks = {scale: _mark(job, scale) for scale in job.scales}
    former = {scale: _read_mark(job.lr / f"X{scale}") for scale in marks}
    redo = [scale for scale, mark in marks.items() if former[scale] not in (None, mark)]
    for scale, mark in marks.items():  # files of both kinds lie there until all are made
        _write_mark(job.lr / f"X{scale}", "unfinished" if scale in redo else mark)
    convert = functools.partial(_convert_one, job, redo)
    if processes == 1:
        result = _count(map(convert, sources), len(sources))
    else:
        with ProcessPoolExecutor(processes) as pool:
            try:
                result = _count(pool.map(convert, sources), len(sources))
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
    for scale in [] if result.errors else redo:
        _write_mark(job.lr / f"X{scale}", marks[scale])
    return result


def _mark(job, scale):
    name = job.degradation
    return name if name == "BI" else f"{name} {fingerprint(name, scale, job.seed)}"


def _read_mark(folder):
    """Return what made the LR images of a folder; None if there are none."""
    path = folder / MARK
    if path.is_file():
        return path.read_text().strip()
    return "BI" if any(entry.name[0] != "." for entry in folder.iterdir()) else None


def _write_mark(folder, text):
    if text == "BI":
        (folder / MARK).unlink(missing_ok=True)
        return
    with atomic_write(folder / MARK) as file:
        file.write(f"{text}\n".encode())


def _count(results, total):
    written = replaced = 0
    errors = []
    bar = tqdm(results, desc="LR images", total=total, unit="image", disable=None)
    for done, error in bar:
        written += len(done)
        replaced += sum(done)
        errors += [error] if error else []
    return MakeResult(written, replaced, errors)


def _convert_one(job, redo, source):
    """Make the files of one HR image; returns (for each file: was there one before, error)."""
    if job.max_pixels:
        set_max_pixels(job.max_pixels)
    done = []
    try:
        _write_files(source, job, redo, done)
    except UserError as error:
        return done, str(error)
    except OSError as error:
        return done, f"{source}: {error}"
    return done, None


def _write_files(source, job, redo, done):
    size = image_size(source)
    if min(size) < max(job.scales):
        raise UserError(
            f"{source}: {size[1]}x{size[0]} pixels are too few for scale {max(job.scales)}"
        )
    copy = job.hr / source.name if job.hr else source
    # LR images of the former content may look new enough
    is_changed = copy.is_file() and not _is_same(copy, source)
    ending = ".tif" if source.suffix.lower() in TIFF else ".png"
    image = None
    for scale in job.scales:
        target = job.lr / f"X{scale}" / f"{source.stem}x{scale}{ending}"
        lr_size = (size[0] // scale, size[1] // scale)
        if not is_changed and scale not in redo and _is_lr(target, source, lr_size):
            continue
        image = read_image(source) if image is None else image
        existed = target.is_file()
        degradation = DEGRADATIONS[job.degradation]
        write_image(target, image_lr(degradation, scale, job.seed)(image, source))
        done.append(existed)
    if is_changed or not copy.is_file():  # last, so that a stop before it leaves the change visible
        existed = copy.is_file()
        with atomic_path(copy) as partial:
            shutil.copy2(source, partial)
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
