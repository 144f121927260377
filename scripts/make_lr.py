#!/usr/bin/env python3
"""Turn a folder of HR images into a training or benchmark set: LR images by MATLAB's bicubic downsampling.

    scripts/make_lr.py photos --set datasets/MyPhotos --scale 2+3+4
        copies the images to datasets/MyPhotos/HR and writes datasets/MyPhotos/LR_bicubic/X2/NAMEx2.png and so on:
        then --data_train MyPhotos and --data_test MyPhotos work
    scripts/make_lr.py datasets/DIV2K/DIV2K_train_HR --lr datasets/DIV2K/DIV2K_train_LR_bicubic --scale 4
        writes LR images alone

What is done is skipped, each file appears whole or not at all, and images that cannot be used are named at the end.
"""

import argparse
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
from data.image import image_size, read_image, write_image
from data.layout import list_images
from data.resize import downsample
from errors import InputError, bullet_list
from replacing import replacing


def is_done(target, source, size):
    """Tell whether a file is there, not older than its source, and an image of the (height, width) `size`."""
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        return False
    try:
        return image_size(target) == size
    except InputError:
        return False


def convert(source, hr_folder, lr_folder, scales):
    """Make the files of one HR image; give (files made, None) or (0, what is wrong with it)."""
    made = 0
    try:
        size = image_size(source)
        if min(size) < max(scales):
            raise InputError(f"{source}: {size[1]}x{size[0]} pixels are too few for scale {max(scales)}")
        ending = ".tif" if source.suffix.lower() in (".tif", ".tiff") else ".png"  # PNG as written here has no 16-bit colour
        targets = {s: lr_folder / f"X{s}" / f"{source.stem}x{s}{ending}" for s in scales}
        todo = {s: t for s, t in targets.items() if not is_done(t, source, (size[0] // s, size[1] // s))}
        if todo:
            image = read_image(source)
            for scale, target in todo.items():
                write_image(target, downsample(image, scale))
                made += 1
        if hr_folder and not is_done(hr_folder / source.name, source, size):
            with replacing(hr_folder / source.name) as partial:
                shutil.copy2(source, partial)  # with its times, which tell whether it is done
            made += 1
    except InputError as error:
        return made, str(error)
    except OSError as error:
        return made, f"{source}: {error}"
    return made, None


def scale_list(text):
    """Read '2+3+4'."""
    scales = [int(part) for part in text.split("+")]
    if min(scales) < 2:
        raise ValueError
    return scales


def parse(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of HR images")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--set", type=Path, help="folder of the set to make, with HR and LR_bicubic")
    where.add_argument("--lr", type=Path, help="folder of the LR images to make, with X2 and so on")
    parser.add_argument("--scale", type=scale_list, required=True, help="scales, joined by +")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    """Make the set; gives the exit status."""
    args = parse(argv)
    hr_folder = args.set / "HR" if args.set else None
    lr_folder = args.set / "LR_bicubic" if args.set else args.lr
    try:
        sources = list_images(args.source)
        if hr_folder and hr_folder.resolve() == args.source.resolve():
            hr_folder = None
        for folder in [hr_folder, *(lr_folder / f"X{scale}" for scale in args.scale)]:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made, errors = 0, []
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(convert, source, hr_folder, lr_folder, args.scale) for source in sources]
        try:
            for job in tqdm(jobs, unit="image", disable=None):
                count, error = job.result()
                made += count
                errors += [error] if error else []
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print("interrupted: the same command goes on from here", file=sys.stderr)
            return 130
    print(f"{len(sources)} HR images, scales {'+'.join(map(str, args.scale))}: {made} files written to {lr_folder.parent}")
    if errors:
        print(f"error: {len(errors)} images cannot be used:" + bullet_list(errors), file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
