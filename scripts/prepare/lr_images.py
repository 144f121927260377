"""Make LR images of a folder of HR images by a degradation. Several processes share the work.

Files that are there and up to date are skipped, each file is written atomically, and images that
cannot be used are named at the end.
"""

import filecmp
import functools
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from data.datasets import MARK, match_lr, stem
from data.degradation import degradation_of, fingerprint, image_lr
from data.image import TIFF, image_size, read_image, set_max_pixels, write_image
from runtime.files import UserError, atomic_path, atomic_write, bullet_list, remove_stale_temp_files


def missing_lr(hr_paths, lr_folder, scale):
    """List the HR images without an LR image NAMExSCALE or NAME in a folder."""
    files = lr_folder.iterdir() if lr_folder.is_dir() else ()
    there = {stem(path) for path in files if path.name[0] != "."}
    found = match_lr([stem(path) for path in hr_paths], there, scale)
    return [path for path, lr in zip(hr_paths, found, strict=True) if lr is None]


def make_lr_images(args, sources, lr, scales, hr=None):
    """Make the LR images lr/XS/NAMExS, copy the HR images to `hr`, and print what was done.

    A file that is older than its source, is not its copy, or is made by another degradation is made
    again. Returns the problems: a list with a sentence, or an empty list.
    """
    folders = {scale: lr / f"X{scale}" for scale in scales}
    for folder in filter(None, [hr, *folders.values()]):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temp_files(folder)
    marks = dict.fromkeys(scales, "BI")
    if args.degradation != "BI":
        codes = {scale: fingerprint(args.degradation, scale, args.seed) for scale in scales}
        marks = {scale: f"{args.degradation} {code}" for scale, code in codes.items()}
    redo = [s for s, folder in folders.items() if _read_mark(folder) not in (None, marks[s])]
    for scale, folder in folders.items():  # files of both kinds lie there until all are made
        _write_mark(folder, "unfinished" if scale in redo else marks[scale])
    rule = args.degradation, args.seed, args.max_pixels
    convert = functools.partial(_convert_one, folders, hr, redo, rule)
    existed, errors = [], []
    ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process
    with ProcessPoolExecutor(args.jobs, None, *ignore) as pool:
        results = map(convert, sources) if args.jobs == 1 else pool.map(convert, sources)
        try:
            bar = tqdm(results, "LR images", len(sources), unit="image", disable=None)
            for files, error in bar:
                existed += files
                errors += [error] if error else []
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
        except BrokenProcessPool as error:
            hint = "perhaps for lack of memory: give a smaller --jobs"
            raise UserError(f"a process was killed, {hint}") from error
    for scale in [] if errors else redo:
        _write_mark(folders[scale], marks[scale])
    again = f", {sum(existed)} of them in place of files that were broken or made of other images"
    print(f"{len(existed)} files written to {hr.parent if hr else lr}" + again * any(existed))
    return [f"{len(errors)} images cannot be used:" + bullet_list(errors)] if errors else []


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


def _convert_one(folders, hr, redo, rule, source):
    """Make the files of an HR image; return, for each, whether it existed, and error or None."""
    degradation, seed, max_pixels = rule
    if max_pixels:
        set_max_pixels(max_pixels)
    existed, image = [], None
    try:
        size = image_size(source)
        if min(size) < max(folders):
            pixels = f"{size[1]}x{size[0]} pixels are too few for scale {max(folders)}"
            return [], f"{source}: {pixels}"
        copy = hr / source.name if hr else source
        # LR images of the former content may look new enough; filecmp trusts size and time
        is_same = not copy.is_file() or copy.samefile(source) or filecmp.cmp(copy, source)
        ending = ".tif" if source.suffix.lower() in TIFF else ".png"
        for scale, folder in folders.items():
            target = folder / f"{source.stem}x{scale}{ending}"
            lr_size = (size[0] // scale, size[1] // scale)
            if is_same and scale not in redo and _is_lr(target, source, lr_size):
                continue
            image = read_image(source) if image is None else image
            is_there = target.is_file()
            write_image(target, image_lr(image, source, degradation_of(degradation), scale, seed))
            existed.append(is_there)
        if not is_same or not copy.is_file():  # last: a stop before it leaves the change visible
            is_there = copy.is_file()
            with atomic_path(copy) as partial:
                shutil.copy2(source, partial)
            existed.append(is_there)
    except UserError as error:
        return existed, str(error)
    except OSError as error:
        return existed, f"{source}: {error}"
    return existed, None


def _is_lr(target, source, size):
    """Return whether a file is an image (height, width) `size`, not older than its source."""
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        return False
    try:
        return image_size(target) == size
    except UserError:
        return False
