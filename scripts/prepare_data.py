#!/usr/bin/env python3
"""Prepare data sets in the folders that the program reads. Existing files are kept.

    scripts/prepare_data.py sample --scale 2         photographs of scikit-image, no download
    scripts/prepare_data.py div2k --scale 2+3+4      DIV2K: 1-800 for training, 801-900 for tests
    scripts/prepare_data.py flickr2k --scale 4       Flickr2K, for --data_train DIV2K+Flickr2K
    scripts/prepare_data.py benchmark                Set5, Set14, B100, Urban100
    scripts/prepare_data.py folder PHOTOS MyPhotos   your images, for --data_train MyPhotos
    scripts/prepare_data.py lr HR --lr LR --scale 4  only LR images

LR images that are not downloaded are made by MATLAB's bicubic downsampling, or by --degradation. A
command that was stopped continues if it is run again. A file that cannot be downloaded can be
fetched by other means and put at the path that the message names. The last lines list the sets. The
exit status is 1 if a set that the command requires is incomplete.
"""

import argparse
import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from data.datasets import DEMO_SETS, dataset_spec
from data.degradation import DEGRADATIONS, TEST_SEED, degradation_of
from data.image import set_max_pixels
from prepare import commands
from prepare.lr_images import missing_lr
from runtime.files import UserError
from runtime.threads import own_cores


def report(args, expected):
    """Print the present and the missing images of a set; return whether it is complete."""
    hr, lr = commands.folders(args.dir_data, expected.name, args.degradation)
    images = commands.images_in(hr)
    lr_scales = {int(p.name[1:]) for p in lr.glob("X*") if p.name[1:].isdigit()} | set(args.scale)
    n_missing = {s: len(missing_lr(images, lr / f"X{s}", s)) for s in sorted(lr_scales)}
    complete = [f"X{scale}" for scale, count in n_missing.items() if not count] if images else []
    names = " ".join(complete) or "none"
    print(f"{expected.name}: {len(images)} images in {hr}, LR images {names}")
    missing, more = [], len(images) - expected.count
    if more < 0:
        missing.append(f"{-more} images: {expected.hint}")
    for scale in [scale for scale in args.scale if n_missing[scale]]:
        command = ["scripts/prepare_data.py", "lr", hr, "--lr", lr, "--scale", scale]
        command += ["--degradation", args.degradation] if args.degradation != "BI" else []
        how = shlex.join(map(str, command))
        missing.append(f"LR images X{scale} of {n_missing[scale]} images; this makes them: {how}")
    for line in missing:
        print(f"  missing: {line}")
    if more > 0:
        is_by_position = dataset_spec(expected.name).uses_data_range
        shift = ", which shift the positions of --data_range" if is_by_position else ""
        print(f"  {more} images more than published{shift}")
    return not missing


def parsed(convert, expected):
    """Return an argparse type: a text that `convert` maps to None, or cannot map, is an error."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = convert(text)
            if value is not None:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} must be {expected}")

    return parse


def positive(kind):
    """Return the argparse type of numbers above 0."""
    return parsed(lambda text: kind(text) if kind(text) > 0 else None, "a number above 0")


def _seed(text):
    return int(text) if int(text) >= 0 else None


def _unique_scales(text):
    numbers = [int(part) for part in text.split("+")]
    return numbers if min(numbers) > 0 and len(set(numbers)) == len(numbers) else None


def _benchmark_names(text):
    names = text.split("+")
    return names if set(names) <= set(commands.BENCHMARKS) else None


def _set_name(text):
    return text if re.fullmatch(r"[^./\\+][^/\\+]*", text) and text not in DEMO_SETS else None


def add_command(subparsers, run, text, default_scale, archives=()):
    """Add a command with the flags that all have; return its `add_argument`."""
    parser = subparsers.add_parser(run.__name__, help=text, description=text)
    parser.set_defaults(run=run, degradation="BI", seed=TEST_SEED)
    flag = parser.add_argument
    scales = parsed(_unique_scales, "scales of 1 or more, joined by +")
    text = "scales of the LR images, joined by +"
    if default_scale:
        text += f" (default: {default_scale})"
    flag("--scale", type=scales, default=default_scale, required=not default_scale, help=text)
    if not archives:  # all LR images are made
        text = "how LR is made (default: BI)"
        flag("--degradation", choices=list(DEGRADATIONS), default="BI", help=text)
        text = "--seed of the training, for random degradations (default: 1, also that of tests)"
        flag("--seed", type=parsed(_seed, "a number of 0 or more"), help=text)
    cores = len(own_cores())
    flag("--jobs", type=positive(int), default=cores, help="processes (default: %(default)s)")
    text = "pixels above which an image file is refused (default: 178,956,970)"
    flag("--max_pixels", type=positive(int), help=text)
    if run is not commands.lr:
        flag("--dir_data", type=Path, default=ROOT / "datasets", help="folder of all sets")
    if archives:
        _add_download_flags(flag, archives)
    return flag


def _add_download_flags(flag, archives):
    def checksum(text):
        name, _, digits = text.partition("=")
        is_valid = name in archives and re.fullmatch("[0-9a-fA-F]{8,64}", digits)
        return (name, digits) if is_valid else None

    url = commands.DIV2K_URL if "DIV2K" in archives[0] else commands.EDSR_URL
    flag("--url", default=url, help="folder of the archives (default: %(default)s)")
    flag("--keep", action="store_true", help="keep the downloaded archives")
    expected = f"FILE=HEX, 8 to 64 hexadecimal digits for one of {', '.join(archives)}"
    checksum, text = parsed(checksum, expected), "checksum of an archive, or its start"
    flag("--sha256", type=checksum, action="append", default=[], metavar="FILE=HEX", help=text)
    text = "attempts after the first that bring nothing (default: %(default)s)"
    flag("--retries", type=int, default=4, help=text)
    text = "seconds to wait for the server (default: %(default)s)"
    flag("--timeout", type=positive(float), default=30, help=text)


def build_parser():
    """Build the parser: a command each with its flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    add_command(subparsers, commands.sample, "photographs that come with scikit-image", "2")
    add_command(subparsers, commands.div2k, "DIV2K", "2+3+4", [*commands.DIV2K_ARCHIVES])
    add_command(subparsers, commands.flickr2k, "Flickr2K, 2,650 images", "2+3+4", ["Flickr2K.tar"])
    text = "Set5, Set14, B100, Urban100, Manga109"
    flag = add_command(subparsers, commands.benchmark, text, "2+3+4", ["benchmark.tar"])
    names = parsed(_benchmark_names, f"names of {', '.join(commands.BENCHMARKS)}, joined by +")
    text = "sets whose absence is an error (default: all except Manga109)"
    flag("--sets", type=names, default=[*commands.BENCHMARKS][:4], help=text)
    text = "a data set from a folder of HR images"
    flag = add_command(subparsers, commands.folder, text, "2+3+4")
    flag("source", type=Path, help="folder of HR images")
    flag("name", type=parsed(_set_name, "the name of a folder of a set"), help="name of the set")
    flag = add_command(subparsers, commands.lr, "only LR images", None)
    flag("source", type=Path, help="folder of HR images")
    flag("--lr", type=Path, required=True, help="folder to make, with X2 and so on")
    return parser


def main(argv=None):
    """Prepare the data sets of a command; return the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    for name in {"dir_data", "source", "lr"} & vars(args).keys():  # ~ of --lr=~/folder
        setattr(args, name, Path(os.path.expanduser(getattr(args, name))))
    defined = degradation_of(args.degradation).scales
    if defined and not set(args.scale) <= set(defined):
        names = "+".join(map(str, defined))
        parser.error(f"--degradation {args.degradation} must be used with --scale {names}")
    if args.max_pixels:
        set_max_pixels(args.max_pixels)
    try:
        problems, sets = args.run(args)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        done = [report(args, expected) for expected in sets]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    missing = any(s.required and not is_complete for s, is_complete in zip(sets, done, strict=True))
    return 1 if problems or missing else 0


if __name__ == "__main__":
    # a log file shows lines when they are written; names of files may be any bytes
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.exit(main())
