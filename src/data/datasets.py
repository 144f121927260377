"""Where the images of a data set lie. A new data set is one line in `DATASETS`, or just a folder of the user's.

HR images lie in `DIR_DATA/<hr>/NAME.EXT`, LR images of scale s in `DIR_DATA/<lr>/NAMExS.EXT` (or `NAME.EXT`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data.image import EXTENSIONS
from runtime.errors import UserError, bullet_list


@dataclass(frozen=True)
class DatasetSpec:
    """Folders of a data set under --dir_data, and how it is used.

    Attributes:
        hr: folder of the HR images.
        lr: folder of the LR images, with `{scale}`.
        uses_data_range: --data_range picks the images, by position in the sorted folder.
        benchmark: metrics on luma with a border of `scale` pixels cut; else on RGB with a border of `scale` + 6.
        make_lr: where the folder of LR images is missing, LR images are made from HR by bicubic downsampling.
    """

    hr: str
    lr: str
    uses_data_range: bool = False
    benchmark: bool = True
    make_lr: bool = False


def _benchmark(name):
    return DatasetSpec(hr=f"benchmark/{name}/HR", lr=f"benchmark/{name}/LR_bicubic/X{{scale}}")


DATASETS = {
    "DIV2K": DatasetSpec(
        "DIV2K/DIV2K_train_HR",
        "DIV2K/DIV2K_train_LR_bicubic/X{scale}",
        uses_data_range=True,
        benchmark=False,
    ),
    "Set5": _benchmark("Set5"),
    "Set14": _benchmark("Set14"),
    "B100": _benchmark("B100"),
    "Urban100": _benchmark("Urban100"),
    "Manga109": _benchmark("Manga109"),
}

# Test sets without HR images, a file or a folder of pictures and videos: Demo is --dir_demo, MyImage TESTPATH/TESTSET/xSCALE.
DEMO_SETS = {"Demo", "MyImage"}
VIDEO_EXTENSIONS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}


def dataset_spec(name):
    """Give the layout of a data set; a name that is not registered is a folder NAME/{HR,LR_bicubic/XS} of the user's."""
    return DATASETS.get(name) or DatasetSpec(
        f"{name}/HR", f"{name}/LR_bicubic/X{{scale}}", make_lr=True
    )


def parse_ranges(text):
    """Read '1-800/801-810' as [(1, 800), (801, 810)]: one or two ranges of positions, the first is 1, ends included."""
    ranges = []
    for part in str(text).split("/"):
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--data_range {text}: {part!r} is not a range FIRST-LAST with 1 <= FIRST <= LAST"
            )
        ranges.append((int(match[1]), int(match[2])))
    if len(ranges) > 2:
        raise UserError(f"--data_range {text}: more than two ranges (TRAIN/TEST)")
    return ranges


def list_images(folder):
    """List the image files of a folder, sorted by name.

    Raises:
        UserError: the folder is missing or holds no image, or something with an image's name that is no file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such data folder: {folder}")
    paths = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    )
    # a folder, a link to nowhere, or a pipe, which reading would wait for without end
    unfit = [str(path) for path in paths if not path.is_file()]
    if unfit:
        raise UserError("these have an image's name, but are no files:" + bullet_list(unfit))
    stems = [path.stem for path in paths]
    twice = (
        sorted({str(folder / stem) for stem in stems if stems.count(stem) > 1})
        if len(set(stems)) < len(stems)
        else []
    )
    if twice:
        raise UserError("images with the same name but another ending:" + bullet_list(twice))
    if not paths:
        raise UserError(f"no images in {folder} (looked for {', '.join(sorted(EXTENSIONS))})")
    return paths


def list_demo_inputs(source):
    """List the pictures and videos that a file or a folder is, sorted by name.

    Returns:
        (files, skipped): list of Path; names of what else the folder holds, hidden files left out.

    Raises:
        UserError: there is no such file or folder, or no picture or video in it.
    """
    source = Path(source)
    known = EXTENSIONS | VIDEO_EXTENSIONS
    if not source.exists():
        raise UserError(f"no such file or folder of pictures: {source}")
    found = sorted(source.iterdir()) if source.is_dir() else [source]
    found = [path for path in found if not path.name.startswith(".") or path == source]
    files = [path for path in found if path.is_file() and path.suffix.lower() in known]
    if not files:
        raise UserError(
            f"no pictures or videos in {source} (looked for {', '.join(sorted(known))})"
        )
    return files, [
        path.name + ("/" if path.is_dir() else "") for path in found if path not in set(files)
    ]


def _match(hr_paths, folder, scale, whole):
    """Pair each HR file with its LR file: NAMExS or, failing that, NAME, with any image extension."""
    files = {path.stem: path for path in list_images(folder)}
    found = [files.get(f"{hr.stem}x{scale}") or files.get(hr.stem) for hr in hr_paths]
    missing = [
        str(folder / f"{hr.stem}x{scale}.png")
        for hr, lr in zip(hr_paths, found, strict=True)
        if lr is None
    ]
    if missing:
        count = f"{len(missing)} of {len(found)}"
        raise UserError(
            f"{count} HR images have no LR image of scale {scale}:" + bullet_list(missing)
        )
    left = sorted(str(path) for path in set(files.values()) - set(found))
    if left and whole:
        raise UserError(
            f"{len(left)} LR images have no HR image in {hr_paths[0].parent}:" + bullet_list(left)
        )
    return list(zip(hr_paths, found, strict=True))


def find_pairs(dir_data, name, scale, data_range=None):
    """List the images of a data set.

    Args:
        dir_data: folder of all data sets.
        name: name of the data set.
        scale: the scale, int.
        data_range: (first, last) position for sets that are `uses_data_range`, else ignored.

    Returns:
        list of (HR path, LR path); the LR path is None where LR is to be made from HR.

    Raises:
        UserError: a folder is missing or empty, HR and LR do not match by name, or the range lies outside of the set.
    """
    spec = dataset_spec(name)
    root = Path(dir_data)
    if not (root / spec.hr).is_dir():
        known = f" ({name} is not one of {', '.join(DATASETS)}, so it is a folder of yours)"
        if name in DATASETS:
            command = (
                f"python scripts/prepare_data.py {'div2k' if name == 'DIV2K' else 'benchmark'}"
            )
            known = f"\nfetch it with: {command} --scale {scale} --dir_data {root}"
        raise UserError(f"data set {name}: no such data folder: {root / spec.hr}{known}")
    hr = list_images(root / spec.hr)
    if spec.uses_data_range and data_range is not None:
        first, last = data_range
        if last > len(hr):
            raise UserError(
                f"--data_range {first}-{last}: {name} has the images 1-{len(hr)} in {root / spec.hr}"
            )
        hr = hr[first - 1 : last]
    lr_folder = root / spec.lr.format(scale=scale)
    if lr_folder.is_dir():
        return _match(hr, lr_folder, scale, whole=not spec.uses_data_range)
    if not spec.make_lr:
        command = f"python scripts/prepare_data.py lr {root / spec.hr} --lr {lr_folder.parent} --scale {scale}"
        raise UserError(
            f"data set {name}: no LR images of scale {scale} in {lr_folder}\nmake them with: {command}"
        )
    return [(path, None) for path in hr]
