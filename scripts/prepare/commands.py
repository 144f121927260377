"""The commands of scripts/prepare_data.py: each maps its flags to (problems, list of Expected).

Archives of DIV2K, Flickr2K and the benchmarks are unpacked to the folders of `DATASETS`.
"""

import os
import re
import shutil
from typing import NamedTuple

import skimage.data

from data.datasets import dataset_spec, list_images
from data.image import EXTENSIONS, write_image
from prepare.archive import check_archive, unpack
from prepare.download import NoConnectionError, NotFoundError, download
from prepare.lr_images import make_lr_images, missing_lr
from runtime.files import UserError, atomic_path, remove_stale_temp_files

DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
EDSR_URL = "https://cv.snu.ac.kr/research/EDSR/"
# both lie in DIV2K_train_HR, as in EDSR-PyTorch
DIV2K_PARTS = {"train": range(1, 801), "valid": range(801, 901)}
DIV2K_ARCHIVES = {  # name: (part, scale, or None for HR)
    f"DIV2K_{part}_LR_bicubic_X{scale}.zip" if scale else f"DIV2K_{part}_HR.zip": (part, scale)
    for scale in (None, 2, 3, 4)
    for part in DIV2K_PARTS
}
FLICKR2K_COUNT = 2650
# numbers of images
BENCHMARKS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
RERUN = "run the command again, with --url MIRROR if the server is the cause"
MANGA109 = (
    "fetch it by hand, since its license has to be applied for at http://www.manga109.org; "
    "put the HR images into the folder above and run the command again, which makes the LR images"
)
# names of functions in skimage.data; all come with the package
SAMPLES = {
    "sample_train": "rocket hubble_deep_field immunohistochemistry retina stereo_motorcycle camera "
    "brick grass gravel moon coins",
    "sample_test": "astronaut chelsea coffee",
}


class Expected(NamedTuple):
    """A set for the table at the end."""

    name: str
    count: int  # images as published
    hint: str  # how to get them
    required: bool = True  # whether its absence is an error


def images_in(folder):
    """List the images of a folder as `list_images` does; [] if there are none."""
    names = os.listdir(folder) if folder.is_dir() else []
    is_image = any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names)
    return list_images(folder) if is_image else []


def folders(dir_data, name, degradation="BI"):
    """Return a set's HR folder, and the folder of its LR folders X2, X3, ..."""
    hr, lr = dataset_spec(name).folders(0, degradation)
    return dir_data / hr, (dir_data / lr).parent


def sample(args):
    """Write the photographs of scikit-image as sample_train and sample_test."""
    problems, sets = [], []
    for name, photographs in SAMPLES.items():
        hr, lr = folders(args.dir_data, name, args.degradation)
        hr.mkdir(parents=True, exist_ok=True)
        remove_stale_temp_files(hr)
        for photograph in photographs.split():
            if not (hr / f"{photograph}.png").is_file():
                image = getattr(skimage.data, photograph)()
                image = image[0] if isinstance(image, tuple) else image
                write_image(hr / f"{photograph}.png", image)
        problems += make_lr_images(args, images_in(hr), lr, args.scale)
        sets.append(Expected(name, len(photographs.split()), RERUN))
    return problems, sets


def folder(args):
    """Make a data set, whose name may be that of a published set, from a folder of HR images."""
    sources = list_images(args.source, print)
    hr, lr = folders(args.dir_data, args.name, args.degradation)
    copies = None if hr.resolve() == args.source.resolve() else hr
    problems = make_lr_images(args, sources, lr, args.scale, copies)
    return problems, [Expected(args.name, len(images_in(hr)), "")]


def lr(args):
    """Make the LR images of a folder."""
    return make_lr_images(args, list_images(args.source, print), args.lr, args.scale), []


# -------------------------------------------------------------- downloads


def _make_missing_lr(args, name, scales):
    """Make the LR images that a set lacks; return the problems."""
    hr, lr = folders(args.dir_data, name)
    problems = []
    for scale in scales:
        sources = missing_lr(images_in(hr), lr / f"X{scale}", scale)
        if sources:
            print(f"{name}: making the LR images X{scale} of {len(sources)} images")
            problems += make_lr_images(args, sources, lr, [scale])
    return problems


def _fetch_and_unpack(args, name, folder, target_for):
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


def _div2k_path(number, scale=None):
    """Return the path under DIV2K of an image, whose number has 4 digits."""
    lr = f"DIV2K_train_LR_bicubic/X{scale}/{number}x{scale}.png"
    return lr if scale else f"DIV2K_train_HR/{number}.png"


def _div2k_target(name):
    """Return the path under DIV2K for 0001.png or 0001x4.png; None for other names."""
    match = re.fullmatch(r"(?:.*/)?(0\d{3})(?:x(\d))?\.png", name)
    return _div2k_path(*match.groups()) if match and 1 <= int(match[1]) <= 900 else None


def _ensure_div2k(args, archive, wanted):
    """Download the archive of the files `wanted`, paths under DIV2K, unless they exist."""
    folder = args.dir_data / "DIV2K"
    for path in wanted:  # where DIV2K's archives unpack, e.g. DIV2K_valid_HR/0801.png
        source = folder / path.replace("_train_", "_valid_")
        if source.is_file() and not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / path) as partial:
                shutil.copy2(source, partial)
    if all((folder / path).is_file() for path in wanted):
        return
    _fetch_and_unpack(args, archive, folder, _div2k_target)
    have = sum((folder / path).is_file() for path in wanted)
    if have < len(wanted):
        raise UserError(
            f"{archive}: held {have} of the {len(wanted)} images of DIV2K"
            " that are in the published one"
        )


def div2k(args):
    """Download DIV2K; make LR images that are not published."""
    problems, failed = [], set()
    for archive, (part, scale) in DIV2K_ARCHIVES.items():
        if scale not in (None, *args.scale):
            continue
        try:
            wanted = [_div2k_path(f"{i:04d}", scale) for i in DIV2K_PARTS[part]]
            _ensure_div2k(args, archive, wanted)
        except UserError as error:
            if isinstance(error, NotFoundError) and scale:
                print(f"{archive}: the server has none, so its LR images are made from HR")
                continue
            problems.append(str(error))
            failed.add(scale)
            if isinstance(error, NoConnectionError):
                break
    complete = [scale for scale in args.scale if not failed & {None, scale}]
    problems += _make_missing_lr(args, "DIV2K", complete)
    return problems, [Expected("DIV2K", 900, RERUN)]


def _fetch_sets(args, archive, pattern, target, counts):
    """Fetch an archive if a set of `counts` lacks images; return the problems.

    Names of the archive that match `pattern` are unpacked to `target`, a template, in --dir_data.
    """

    def target_for(name):
        match = re.fullmatch(pattern, name)
        return match and match.expand(target)

    try:
        if any(len(images_in(folders(args.dir_data, s)[0])) < n for s, n in counts.items()):
            _fetch_and_unpack(args, archive, args.dir_data, target_for)
    except UserError as error:
        return [str(error)]
    return []


def flickr2k(args):
    """Download Flickr2K (20 GB); make LR images that are missing."""
    pattern = r"(?:\./)?(?:Flickr2K/)?(Flickr2K_(?:HR|LR_bicubic/X\d)/\d{6}(?:x\d)?\.png)"
    counts = {"Flickr2K": FLICKR2K_COUNT}
    problems = _fetch_sets(args, "Flickr2K.tar", pattern, r"Flickr2K/\1", counts)
    problems += _make_missing_lr(args, "Flickr2K", args.scale)
    return problems, [Expected("Flickr2K", FLICKR2K_COUNT, RERUN)]


def benchmark(args):
    """Download the benchmark sets and make LR images that they lack."""
    names = "|".join(BENCHMARKS)
    pattern = rf"(?:\./)?(benchmark/(?:{names})/(?:HR|LR_bicubic/X\d)/[^/\\.:][^/\\:]*\.png)"
    counts = {name: BENCHMARKS[name] for name in args.sets if name != "Manga109"}
    problems, sets = _fetch_sets(args, "benchmark.tar", pattern, r"\1", counts), []
    for name, number in BENCHMARKS.items():
        problems += _make_missing_lr(args, name, args.scale)
        hint = MANGA109 if name == "Manga109" else RERUN
        sets.append(Expected(name, number, hint, required=name in args.sets))
    return problems, sets
