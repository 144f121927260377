"""DIV2K, Flickr2K and the benchmarks: from their archives to the folders of `DATASETS`.

Each command takes the flags of scripts/prepare_data.py and returns (problems, list of Expected).
"""

import os
import re
import shutil
from typing import NamedTuple

from data.datasets import dataset_spec, list_images
from data.image import EXTENSIONS
from prepare.archive import check_archive, unpack
from prepare.download import NoConnectionError, NotFoundError, download
from prepare.lr_images import Job, make_set, missing_lr
from runtime.files import UserError, atomic_path, bullet_list

DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
# both lie in DIV2K_train_HR, as in EDSR-PyTorch
DIV2K_PARTS = {"train": range(1, 801), "valid": range(801, 901)}
DIV2K_COUNT = 900
DIV2K_LR_SCALES = (2, 3, 4)  # with archives of bicubic LR images

EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/"
FLICKR2K_COUNT = 2650
# numbers of images
BENCHMARKS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
RERUN = "run the command again, with --url MIRROR if the server is the cause"
MANGA109 = (
    "fetch it by hand, since its license has to be applied for at http://www.manga109.org; "
    "put the HR images into the folder above and run the command again, which makes the LR images"
)


class Expected(NamedTuple):
    """A set for the table at the end."""

    name: str
    count: int  # images as published
    hint: str  # how to get them
    required: bool = True  # whether its absence is an error


def images_in(folder, log=None):
    """List the images of a folder as `list_images` does; [] if there are none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    is_image = any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names)
    return list_images(folder, log) if is_image else []


def folders(dir_data, name, degradation="BI"):
    """Return a set's HR folder, and the folder of its LR folders X2, X3, ..."""
    hr, lr = dataset_spec(name).folders(0, degradation)
    return dir_data / hr, (dir_data / lr).parent


def make_missing_lr(args, name, scales):
    """Make the LR images that a set lacks; returns the problems."""
    hr, lr = folders(args.dir_data, name)
    problems = []
    for scale in scales:
        sources = missing_lr(images_in(hr), lr / f"X{scale}", scale)
        if sources:
            print(f"{name}: making the LR images X{scale} of {len(sources)} images")
            problems += make(args, sources, lr, [scale])
    return problems


def make(args, sources, lr, scales, hr=None):
    """Make LR images, copy HR images, and print what was done; returns the problems."""
    job = Job(hr, lr, scales, args.degradation, args.seed, args.max_pixels)
    made = make_set(sources, job, args.jobs)
    again = f", {made.replaced} of them in place of files that were broken or made of other images"
    line = f"{made.written} files written to {hr.parent if hr else lr}"
    print(line + (again if made.replaced else ""))
    count = f"{len(made.errors)} images cannot be used:"
    return [count + bullet_list(made.errors)] if made.errors else []


def fetch_and_unpack(args, name, folder, target_for):
    """Download an archive, unpack it, and remove it unless it existed before."""
    archive = folder / name
    by_hand = archive.exists()
    url, sha256 = args.url.rstrip("/") + "/" + name, dict(args.sha256).get(name)
    download(url, archive, sha256, check_archive, args.retries, args.timeout)
    written, kept = unpack(archive, folder, target_for)
    print(f"{name}: {written} files unpacked" + (f", {kept} were there" if kept else ""))
    if by_hand:
        print(f"{archive} is not needed any more")
    elif not args.keep:
        archive.unlink()


# ------------------------------------------------------------------- DIV2K


def div2k_archive(part, scale=None):
    """Return the name of DIV2K's archive of HR images or LR images of a scale."""
    return f"DIV2K_{part}_LR_bicubic_X{scale}.zip" if scale else f"DIV2K_{part}_HR.zip"


def div2k_target(name):
    """Return the path under DIV2K for 0001.png or 0001x4.png; None for other names."""
    match = re.fullmatch(r"(?:.*/)?(0\d{3})(?:x(\d))?\.png", name)
    if not match or not 1 <= int(match[1]) <= DIV2K_COUNT:
        return None
    number, scale = match.groups()
    if scale:
        return f"DIV2K_train_LR_bicubic/X{scale}/{number}x{scale}.png"
    return f"DIV2K_train_HR/{number}.png"


def _link_existing(folder, wanted):
    """Link or copy files from where DIV2K's archives unpack, e.g. DIV2K_valid_HR/0801.png."""
    for target in wanted:
        source = folder / target.replace("_train_", "_valid_")
        if source.is_file() and not (folder / target).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / target) as partial:
                try:
                    os.link(source, partial)
                except OSError:  # a file system without links
                    shutil.copy2(source, partial)


def _ensure_files(args, folder, archive, wanted):
    """Download the archive of the files `wanted`, paths under `folder`, unless they exist."""
    _link_existing(folder, wanted)
    if all((folder / path).is_file() for path in wanted):
        return
    fetch_and_unpack(args, archive, folder, div2k_target)
    have = sum((folder / path).is_file() for path in wanted)
    if have < len(wanted):
        raise UserError(
            f"{archive}: held {have} of the {len(wanted)} images of DIV2K"
            " that are in the published one"
        )


def _div2k_jobs(args):
    """List (part, scale or None, files) of the archives that are needed."""
    hr, lr = folders(args.dir_data, "DIV2K")
    jobs = [
        (part, None, [f"{hr.name}/{i:04d}.png" for i in indices])
        for part, indices in DIV2K_PARTS.items()
    ]
    for scale in [scale for scale in args.scale if scale in DIV2K_LR_SCALES]:
        for part, indices in DIV2K_PARTS.items():
            jobs.append((part, scale, [f"{lr.name}/X{scale}/{i:04d}x{scale}.png" for i in indices]))
    return jobs


def div2k(args):
    """Download DIV2K; make LR images that are not published."""
    problems, failed = [], set()
    for part, scale, wanted in _div2k_jobs(args):
        archive = div2k_archive(part, scale)
        try:
            _ensure_files(args, args.dir_data / "DIV2K", archive, wanted)
        except UserError as error:
            if isinstance(error, NotFoundError) and scale:
                print(f"{archive}: the server has none, so its LR images are made from HR")
                continue
            problems.append(str(error))
            failed.add(scale)
            if isinstance(error, NoConnectionError):
                break
    complete = [scale for scale in args.scale if not failed & {None, scale}]
    problems += make_missing_lr(args, "DIV2K", complete)
    return problems, [Expected("DIV2K", DIV2K_COUNT, RERUN)]


# ---------------------------------------------------------------- Flickr2K


def flickr2k_target(name):
    """Return the path under --dir_data for an image of Flickr2K.tar; None for other names."""
    pattern = r"(?:\./)?(?:Flickr2K/)?(Flickr2K_(?:HR|LR_bicubic/X\d)/\d{6}(?:x\d)?\.png)"
    match = re.fullmatch(pattern, name)
    return f"Flickr2K/{match[1]}" if match else None


def flickr2k(args):
    """Download Flickr2K (20 GB); make LR images that are missing."""
    problems = []
    if len(images_in(folders(args.dir_data, "Flickr2K")[0])) < FLICKR2K_COUNT:
        try:
            fetch_and_unpack(args, "Flickr2K.tar", args.dir_data, flickr2k_target)
        except UserError as error:
            problems.append(str(error))
    problems += make_missing_lr(args, "Flickr2K", args.scale)
    return problems, [Expected("Flickr2K", FLICKR2K_COUNT, RERUN)]


# -------------------------------------------------------------- benchmarks


def benchmark_target(name):
    """Return the path under --dir_data for an image of benchmark.tar; None for other names."""
    pattern = r"(?:\./)?(benchmark/(\w+)/(?:HR|LR_bicubic/X\d)/[^/\\.:][^/\\:]*\.png)"
    match = re.fullmatch(pattern, name)
    return match[1] if match and match[2] in BENCHMARKS else None


def benchmark(args):
    """Download the benchmark sets and make LR images that they lack."""
    problems = []

    def count(name):
        return len(images_in(folders(args.dir_data, name)[0]))

    if any(count(name) < BENCHMARKS[name] for name in args.sets if name != "Manga109"):
        try:
            fetch_and_unpack(args, "benchmark.tar", args.dir_data, benchmark_target)
        except UserError as error:
            problems.append(str(error))
    sets = []
    for name, number in BENCHMARKS.items():
        problems += make_missing_lr(args, name, args.scale)
        hint = MANGA109 if name == "Manga109" else RERUN
        sets.append(Expected(name, number, hint, required=name in args.sets))
    return problems, sets
