#!/usr/bin/env python3
"""Prepare data sets in the folders that the program reads. What is there is kept, what is missing is fetched or made.

    scripts/prepare_data.py sample --scale 2            photographs that come with scikit-image, without a download
    scripts/prepare_data.py div2k --scale 2+3+4         DIV2K: 1-800 to train on, 801-900 to validate on
    scripts/prepare_data.py benchmark                   Set5, Set14, B100, Urban100; says how to get Manga109
    scripts/prepare_data.py folder PHOTOS MyPhotos      images of yours, for --data_train MyPhotos, --data_test MyPhotos
    scripts/prepare_data.py lr HR_FOLDER --lr LR_FOLDER --scale 4          LR images alone

LR images that are not fetched are made by MATLAB's bicubic downsampling. A command that was stopped goes on when it is run
again. A file that cannot be downloaded can be fetched by other means and put where the message says. At the end there is a
table of what is there; the exit status is 1 if something that was asked for is missing.
"""

import argparse
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
from data.datasets import DEMO_SETS, dataset_spec, list_images
from data.image import EXTENSIONS, write_image
from data.prepare.archive import check_archive, unpack
from data.prepare.download import NoConnection, NotFound, fetch
from data.prepare.lr_images import make_set, missing_lr
from runtime.errors import UserError, bullet_list
from runtime.files import atomic_path, remove_stale_temp_files

DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
DIV2K_PARTS = {
    "train": range(1, 801),
    "valid": range(801, 901),
}  # both lie in DIV2K_train_HR, as in EDSR-PyTorch
DIV2K_COUNT = 900
DIV2K_LR_SCALES = (2, 3, 4)  # with archives of bicubic LR images

BENCHMARK_URL = "https://cv.snu.ac.kr/research/EDSR/"
BENCHMARKS = {
    "Set5": 5,
    "Set14": 14,
    "B100": 100,
    "Urban100": 100,
    "Manga109": 109,
}  # numbers of images
AGAIN = "run the command again, with --url MIRROR if the server is the cause"
MANGA109 = "fetch it by hand, since its licence has to be applied for at http://www.manga109.org; put the HR images into "
MANGA109 += "the folder above and run the command again, which makes the LR images"

# names of functions in skimage.data; all come with the package
SAMPLES = {
    "sample_train": "rocket hubble_deep_field immunohistochemistry retina stereo_motorcycle camera brick grass gravel "
    "moon coins",
    "sample_test": "astronaut chelsea coffee",
}


class Expected(NamedTuple):
    """A set for the table at the end: its name, number of images, how to get them, and whether it was asked for."""

    name: str
    count: int
    way: str
    asked: bool = True


def images_in(folder):
    """List the images of a folder as `list_images` does; [] where there are none."""
    if not folder.is_dir() or not any(
        p.suffix.lower() in EXTENSIONS and p.name[0] != "." for p in folder.iterdir()
    ):
        return []
    return list_images(folder)


def folders(dir_data, name):
    """Give the HR folder of a set and the one that holds its LR folders X2, X3, ..."""
    spec = dataset_spec(name)
    return dir_data / spec.hr, (dir_data / spec.lr.format(scale=0)).parent


def fill_up(args, name, scales):
    """Make the LR images that a set lacks; give the problems."""
    hr, lr = folders(args.dir_data, name)
    problems = []
    for scale in scales:
        sources = missing_lr(images_in(hr), lr / f"X{scale}", scale)
        if sources:
            print(f"{name}: making the LR images X{scale} of {len(sources)} images")
            problems += make(args, sources, lr, [scale])
    return problems


def make(args, sources, lr, scales, hr=None):
    """Make LR images, copy HR images, and say what was done; gives the problems."""
    made = make_set(sources, lr, scales, hr, args.jobs)
    again = f", {made.replaced} of them in place of files that were broken or not of the present HR image"
    print(
        f"{made.written} files written to {hr.parent if hr else lr}"
        + (again if made.replaced else "")
    )
    return (
        [f"{len(made.errors)} images cannot be used:" + bullet_list(made.errors)]
        if made.errors
        else []
    )


def fetch_and_unpack(args, name, folder, place):
    """Bring an archive into a folder and unpack it there; one that was downloaded is removed after that."""
    archive = folder / name
    by_hand = archive.exists()
    sha256 = dict(args.sha256).get(name)
    fetch(
        args.url.rstrip("/") + "/" + name,
        archive,
        sha256,
        check_archive,
        args.retries,
        args.timeout,
    )
    written, kept = unpack(archive, folder, place)
    print(f"{name}: {written} files unpacked" + (f", {kept} were there" if kept else ""))
    if by_hand:
        print(f"{archive} is not needed any more")
    elif not args.keep:
        archive.unlink()


# ------------------------------------------------------------------- DIV2K


def div2k_archive(part, scale=None):
    """Give the name of the archive of HR images, or of LR images of a scale."""
    return f"DIV2K_{part}_LR_bicubic_X{scale}.zip" if scale else f"DIV2K_{part}_HR.zip"


def place_div2k(name):
    """Give the place of 0001.png or 0001x4.png of DIV2K's archives, of training or validation, under DIV2K; else None."""
    match = re.fullmatch(r"(?:.*/)?(0\d{3})(?:x(\d))?\.png", name)
    if not match:
        return None
    number, scale = match.groups()
    if not 1 <= int(number) <= DIV2K_COUNT:
        return None
    return (
        f"DIV2K_train_LR_bicubic/X{scale}/{number}x{scale}.png"
        if scale
        else f"DIV2K_train_HR/{number}.png"
    )


def _adopt(folder, wanted):
    """Link or copy files that lie where DIV2K's archives unpack by themselves, e.g. DIV2K_valid_HR/0801.png."""
    for target in wanted:
        source = folder / target.replace("_train_", "_valid_")
        if source.is_file() and not (folder / target).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / target) as partial:
                try:
                    os.link(source, partial)
                except OSError:  # a file system without links
                    shutil.copy2(source, partial)


def _bring(args, folder, archive, wanted):
    """See that the files `wanted`, paths under `folder`, are there."""
    _adopt(folder, wanted)
    if all((folder / path).is_file() for path in wanted):
        return
    fetch_and_unpack(args, archive, folder, place_div2k)
    have = sum((folder / path).is_file() for path in wanted)
    if have < len(wanted):
        raise UserError(
            f"{archive}: held {have} of the {len(wanted)} images of DIV2K that are in the published one"
        )


def div2k(args):
    """Fetch DIV2K; make LR images that are not published."""
    folder = args.dir_data / "DIV2K"
    hr, lr = folders(args.dir_data, "DIV2K")
    jobs = [
        (part, None, [f"{hr.name}/{i:04d}.png" for i in numbers])
        for part, numbers in DIV2K_PARTS.items()
    ]
    for scale in [scale for scale in args.scale if scale in DIV2K_LR_SCALES]:
        for part, numbers in DIV2K_PARTS.items():
            jobs.append((part, scale, [f"{lr.name}/X{scale}/{i:04d}x{scale}.png" for i in numbers]))
    problems, failed = [], set()
    for part, scale, wanted in jobs:
        archive = div2k_archive(part, scale)
        try:
            _bring(args, folder, archive, wanted)
        except UserError as error:
            if isinstance(error, NotFound) and scale:
                print(f"{archive}: the server has none, so its LR images are made from HR")
                continue
            problems.append(str(error))
            failed.add(scale)
            if isinstance(error, NoConnection):
                break
    problems += fill_up(
        args, "DIV2K", [scale for scale in args.scale if not failed & {None, scale}]
    )
    return problems, [Expected("DIV2K", DIV2K_COUNT, AGAIN)]


# -------------------------------------------------------------- benchmarks


def place_benchmark(name):
    """Give the place of an image of benchmark.tar, e.g. benchmark/Set5/HR/baby.png, under --dir_data; else None."""
    match = re.fullmatch(r"(?:\./)?(benchmark/(\w+)/(?:HR|LR_bicubic/X\d)/[^/.][^/]*\.png)", name)
    return match[1] if match and match[2] in BENCHMARKS else None


def benchmark(args):
    """Fetch the benchmark sets, make LR images that they lack, and say what has to be fetched by hand."""
    problems = []

    def count(name):
        return len(images_in(folders(args.dir_data, name)[0]))

    if any(count(name) < BENCHMARKS[name] for name in args.sets if name != "Manga109"):
        try:
            fetch_and_unpack(args, "benchmark.tar", args.dir_data, place_benchmark)
        except UserError as error:
            problems.append(str(error))
    sets = []
    for name, number in BENCHMARKS.items():
        problems += fill_up(args, name, args.scale)
        sets.append(
            Expected(
                name, number, MANGA109 if name == "Manga109" else AGAIN, asked=name in args.sets
            )
        )
    return problems, sets


# ------------------------------------------------- sets without a download


def sample(args):
    """Write the photographs of scikit-image as sample_train and sample_test; no photograph is in both."""
    problems, sets = [], []
    for name, photographs in SAMPLES.items():
        hr, lr = folders(args.dir_data, name)
        hr.mkdir(parents=True, exist_ok=True)
        remove_stale_temp_files(hr)
        for photograph in photographs.split():
            if not (hr / f"{photograph}.png").is_file():
                write_image(hr / f"{photograph}.png", read_sample(photograph))
        problems += make(args, images_in(hr), lr, args.scale)
        sets.append(Expected(name, len(photographs.split()), AGAIN))
    return problems, sets


def read_sample(name):
    """Give a photograph as an array (H, W) or (H, W, 3), uint8."""
    import skimage.data

    image = getattr(skimage.data, name)()
    return image[0] if isinstance(image, tuple) else image


def folder(args):
    """Make a set of a folder of HR images; the name of a published set puts it where that set lies."""
    sources = list_images(args.source)
    hr, lr = folders(args.dir_data, args.name)
    problems = make(
        args, sources, lr, args.scale, None if hr.resolve() == args.source.resolve() else hr
    )
    return problems, [Expected(args.name, len(images_in(hr)), "")]


def lr(args):
    """Make the LR images of a folder."""
    return make(args, list_images(args.source), args.lr, args.scale), []


# ----------------------------------------------------------------- command


def report(args, expected):
    """Print what there is of a set and what is missing, with the way to get it; tell whether all is there."""
    hr, lr = folders(args.dir_data, expected.name)
    images = images_in(hr)
    there = {int(p.name[1:]) for p in lr.glob("X*") if p.name[1:].isdigit()}
    lacking = {
        scale: len(missing_lr(images, lr / f"X{scale}", scale))
        for scale in sorted(there | set(args.scale))
    }
    have = [f"X{scale}" for scale, number in lacking.items() if not number] if images else []
    print(f"{expected.name}: {len(images)} images in {hr}, LR images {' '.join(have) or 'none'}")
    missing = []
    if len(images) < expected.count:
        missing.append(f"{expected.count - len(images)} images: {expected.way}")
    for scale in args.scale:
        if lacking[scale]:
            command = shlex.join(
                ["scripts/prepare_data.py", "lr", str(hr), "--lr", str(lr), "--scale", str(scale)]
            )
            missing.append(
                f"LR images X{scale} of {lacking[scale]} images; this makes them: {command}"
            )
    for line in missing:
        print(f"  missing: {line}")
    if len(images) > expected.count:
        shift = (
            ", which shift the positions of --data_range"
            if dataset_spec(expected.name).uses_data_range
            else ""
        )
        print(f"  {len(images) - expected.count} images more than published{shift}")
    return not missing


def scales(text):
    """Read '2+3+4'."""
    parts = text.split("+")
    if not all(part.isdigit() and int(part) >= 2 for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not scales from 2 on, joined by +")
    return [int(part) for part in parts]


def benchmark_names(text):
    """Read 'Set5+Set14'."""
    unknown = [name for name in text.split("+") if name not in BENCHMARKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(BENCHMARKS)}")
    return text.split("+")


def set_name(text):
    """Read the name of a set."""
    if not text or text[0] == "." or set(text) & set("/\\+") or text in DEMO_SETS:
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a folder of a set")
    return text


def checksum_of(archives):
    """Make the type that reads 'benchmark.tar=0123...' for one of `archives`."""

    def parse(text):
        name, _, digits = text.partition("=")
        if name not in archives or not re.fullmatch("[0-9a-fA-F]{8,64}", digits):
            expected = f"FILE=HEX, 8 to 64 hexadecimal digits for one of {', '.join(archives)}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return name, digits

    return parse


def positive(kind):
    """Make the type of numbers above 0."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return parse


def build_parser():
    """Build the parser: a command each with its flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run, text, scale, root=True):
        add = commands.add_parser(run.__name__, help=text, description=text)
        add.set_defaults(run=run)
        note = {"required": True} if scale is None else {"default": scales(scale)}
        add.add_argument(
            "--scale",
            type=scales,
            help="scales of the LR images, joined by +" + f" (default: {scale})" * bool(scale),
            **note,
        )
        add.add_argument(
            "--jobs",
            type=positive(int),
            default=os.cpu_count() or 1,
            help="processes (default: %(default)s)",
        )
        if root:
            add.add_argument(
                "--dir_data", type=Path, default=ROOT / "datasets", help="folder of all sets"
            )
        return add.add_argument

    def download(add, url, archives):
        add("--url", default=url, help="folder of the archives (default: %(default)s)")
        add("--keep", action="store_true", help="keep the downloaded archives")
        add("--sha256", type=checksum_of(archives), action="append", default=[], metavar="FILE=HEX",
            help="checksum of an archive, or its start")  # fmt: skip
        add(
            "--retries",
            type=int,
            default=4,
            help="attempts after the first that bring nothing (default: %(default)s)",
        )
        add(
            "--timeout",
            type=positive(float),
            default=30,
            help="seconds to wait for the server (default: %(default)s)",
        )

    command(sample, "photographs that come with scikit-image", "2")
    archives = [
        div2k_archive(part, scale) for scale in (None, *DIV2K_LR_SCALES) for part in DIV2K_PARTS
    ]
    download(command(div2k, "DIV2K", "2+3+4"), DIV2K_URL, archives)
    add = command(benchmark, "Set5, Set14, B100, Urban100, Manga109", "2+3+4")
    add("--sets", type=benchmark_names, default=[*BENCHMARKS][:4],
        help="those whose absence is an error (default: all but Manga109)")  # fmt: skip
    download(add, BENCHMARK_URL, ["benchmark.tar"])
    add = command(folder, "a set of a folder of HR images", "2+3+4")
    add("source", type=Path, help="folder of HR images")
    add("name", type=set_name, help="name of the set")
    add = command(lr, "LR images alone", None, root=False)
    add("source", type=Path, help="folder of HR images")
    add("--lr", type=Path, required=True, help="folder to make, with X2 and so on")
    return parser


def main(argv=None):
    """Prepare what is asked for; gives the exit status."""
    args = build_parser().parse_args(argv)
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
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    missing = any(expected.asked and not whole for expected, whole in zip(sets, done, strict=True))
    return 1 if problems or missing else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a log file shows lines when they are written
    sys.exit(main())
