"""Folders of the data sets: a new one is a line in `DATASETS`, or just a folder.

HR images lie in `DIR_DATA/..HR/NAME.EXT`, LR images of scale S in `DIR_DATA/..LR_bicubic/XS/`, as
`NAMExS.EXT` or `NAME.EXT`. If the LR folder is missing, LR images are made from HR.
"""

import collections
import difflib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from data.image import EXTENSIONS
from runtime.files import UserError, bullet_list


@dataclass(frozen=True)
class DatasetSpec:
    """Folder of a data set under --dir_data, and how it is used."""

    hr: str  # ends in HR; LR images lie beside it
    command: str = ""  # command of scripts/prepare_data.py that downloads it
    benchmark: bool = True  # metrics on luma, crop border `scale`; else on RGB, border `scale` + 6
    uses_data_range: bool = False  # --data_range picks the images, by position in the sorted folder

    def folders(self, scale, degradation="BI"):
        """Return the folders of HR and LR images; those of BI are named LR_bicubic."""
        kind = "bicubic" if degradation == "BI" else degradation
        return self.hr, f"{self.hr.removesuffix('HR')}LR_{kind}/X{scale}"

    def is_published_test(self):
        """Return whether it is a benchmark, which nobody trains on."""
        return self.hr.startswith("benchmark/")


DATASETS = {
    "DIV2K": DatasetSpec("DIV2K/DIV2K_train_HR", "div2k", benchmark=False, uses_data_range=True),
    "Flickr2K": DatasetSpec("Flickr2K/Flickr2K_HR", "flickr2k", benchmark=False),
    # a folder that joins both; if it is missing, DF2K means DIV2K+Flickr2K
    "DF2K": DatasetSpec("DF2K/DF2K_train_HR", benchmark=False),
}
for _name in ("Set5", "Set14", "B100", "Urban100", "Manga109"):
    DATASETS[_name] = DatasetSpec(f"benchmark/{_name}/HR", "benchmark")
MARK = ".degradation"  # in a folder of LR images of prepare_data.py: what made them
JOINED = {"DF2K": ("DIV2K", "Flickr2K")}

# Test sets without HR images: Demo and video are --dir_demo, MyImage is TESTPATH/TESTSET/xSCALE.
DEMO_SETS = {"Demo", "MyImage", "video"}
VIDEO_EXTENSIONS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}


def dataset_spec(name):
    """Return the DatasetSpec of a name; an unknown name is a folder NAME/{HR,LR_bicubic/XS}."""
    return DATASETS.get(name, DatasetSpec(f"{name}/HR"))


def expand_names(dir_data, names):
    """Return the names, with a joined set that has no folder replaced by its parts."""
    expanded = []
    for name in names:
        is_folder = name not in JOINED or (Path(dir_data) / DATASETS[name].hr).is_dir()
        expanded += [name] if is_folder else JOINED[name]
    return list(dict.fromkeys(expanded))


def parse_ranges(text):
    """Return '1-800/801-810' as [(1, 800), (801, 810)]: positions from 1, ends included."""
    ranges = []
    for part in text.split("/"):
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--data_range {text} must be FIRST-LAST with 1 <= FIRST <= LAST, not {part!r}"
            )
        ranges.append((int(match[1]), int(match[2])))
    if len(ranges) > 2:
        raise UserError(f"--data_range {text} must have at most two ranges, TRAIN/TEST")
    return ranges


def list_images(folder, log=None):
    """List the image files of a folder, sorted by name.

    `log` is called with one line that names all other files and folders, except hidden ones.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: cannot find this folder: give an existing folder of images")
    # os.scandir and plain names: a folder may hold 30,000 images, and this is done at each start
    with os.scandir(folder) as scan:
        entries = sorted((e for e in scan if e.name[0] != "."), key=lambda entry: entry.name)
    images = {e for e in entries if os.path.splitext(e.name)[1].lower() in EXTENSIONS}
    # a folder, a link to nowhere, or a pipe, which reading would wait for without end
    unfit = sorted(entry.path for entry in images if not entry.is_file())
    if unfit:
        text = f"{folder}: cannot read these, which are not files: remove them"
        raise UserError(text + bullet_list(unfit))
    paths = [folder / entry.name for entry in entries if entry in images]
    counts = collections.Counter(path.stem for path in paths)
    twice = sorted(str(folder / stem) for stem, count in counts.items() if count > 1)
    if twice:
        raise UserError(
            f"{folder}: cannot have images that differ only in their ending: rename or remove some"
            + bullet_list(twice)
        )
    if not paths:
        below = _images_below(folder)
        endings = ", ".join(sorted(EXTENSIONS))
        fix = f"move those of {below} up" if below else f"add files that end in {endings}"
        raise UserError(f"{folder}: cannot find an image in it: {fix}")
    if log and len(paths) < len(entries):
        others = [entry.name + "/" * entry.is_dir() for entry in entries if entry not in images]
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        log(f"{folder}: left out, not images: {', '.join(others[:8])}{more}")
    return paths


def _images_below(folder):
    """Return the first folder with images in a folder, as archives unpack to HR/HR, or None."""
    for path in sorted(p for pattern in ("*", "*/*", "*/*/*") for p in folder.glob(pattern)):
        if path.suffix.lower() in EXTENSIONS and path.is_file() and path.name[0] != ".":
            return path.parent
    return None


def list_demo_inputs(source):
    """Return the images and videos that a file or a folder is, and the names of all other files."""
    source = Path(source)
    known = EXTENSIONS | VIDEO_EXTENSIONS
    if not source.exists():
        raise UserError(f"{source}: cannot find this file or folder: give pictures or videos")
    found = sorted(source.iterdir()) if source.is_dir() else [source]
    found = [path for path in found if path.name[0] != "." or path == source]
    files = [path for path in found if path.is_file() and path.suffix.lower() in known]
    if not files:
        below = source.is_dir() and _images_below(source)
        fix = f"give {below}" if below else f"they end in {', '.join(sorted(known))}"
        raise UserError(f"{source}: cannot find pictures or videos: {fix}")
    return files, [path.name + "/" * path.is_dir() for path in found if path not in set(files)]


def stem(path):
    """Return a file's name without ending, in Unicode's composed form: macOS may decompose it."""
    return unicodedata.normalize("NFC", path.stem)


def match_lr(hr_names, lr_names, scale):
    """Return the LR name of each HR name, or None; both without ending and in `stem`'s form.

    A folder of LR images has the names of the HR images, or NAMExSCALE, or a mixture. In a mixture
    NAMExSCALE comes first: with the HR images a and ax2, an LR image ax2 belongs to a, not to ax2.
    """
    lr_names = set(lr_names)
    if set(hr_names) == lr_names:
        return list(hr_names)
    found = [name if (name := f"{hr}x{scale}") in lr_names else None for hr in hr_names]
    taken = set(found)
    for i, hr in enumerate(hr_names):
        if found[i] is None and hr in lr_names and hr not in taken:
            found[i] = hr
    return found


def _missing_set(root, name, scale):
    """Build the error for a missing data set, with the way to get it."""
    spec = dataset_spec(name)
    text = f"data set {name}: no such data folder: {root / spec.hr}"
    if spec.command:
        command = f"python scripts/prepare_data.py {spec.command} --scale {scale} --dir_data {root}"
        return UserError(f"{text}\nfetch it with: {command}")
    text += f" ({name} is not one of {', '.join(DATASETS)}, so it is a folder of yours)"
    below = _images_below(root / name)
    if below:
        return UserError(f"{text}\nput the images that lie in {below} into {root / spec.hr}")
    there = [other for other, spec in DATASETS.items() if (root / spec.hr).is_dir()]
    there += sorted(path.parent.name for path in root.glob("*/HR") if path.is_dir())
    close = difflib.get_close_matches(name, there, 1)
    text += f"\nsets in {root}: {', '.join(there) or 'none'}"
    return UserError(text + (f" (did you mean {close[0]}?)" if close else ""))


def _lookalike_hint(hr_folder, lr_folder, scale):
    """Return a sentence that names folders near HR which look like LR images, or ""."""
    alike, base = [], hr_folder.parent
    for path in sorted([*base.glob("*/"), *base.glob("*/*/")]):
        name = str(path.relative_to(base)).lower()
        scales = re.findall(r"x(\d+)|(\d+)x", name)
        fits = (str(scale) in scales[-1]) if scales else re.search(r"lr|low", name)
        is_other = re.search(r"valid|lr_(bd|dn|real)\b", name) or (path / MARK).is_file()
        if fits and not is_other and path.is_dir() and path not in (hr_folder, lr_folder):
            has_images = any(file.suffix.lower() in EXTENSIONS for file in path.iterdir())
            alike += [str(path)] * has_images
    return f"{' and '.join(alike)} may hold them: to use it, rename it to {lr_folder}" * bool(alike)


def missing_lr_line(args, name, scale, when):
    """Return the line to log for a set whose LR images are made from HR; it may be a warning."""
    spec, is_bicubic = dataset_spec(name), args.degradation == "BI"
    folders = spec.folders(scale, args.degradation)
    hr_folder, lr_folder = (Path(args.dir_data) / path for path in folders)
    how = "bicubic downsampling" if is_bicubic else f"--degradation {args.degradation}"
    lacks = f"no LR images of scale {scale} in {lr_folder}"
    lacks = f"{lr_folder} is not used" if lr_folder.is_dir() else lacks  # `per_sample`
    line = f"{name}: {lacks}: made by {how} {when}"
    if is_bicubic and scale == 1:
        return f"WARNING: {line}. Bicubic downsampling by 1 changes nothing: LR is HR"
    hint = _lookalike_hint(hr_folder, lr_folder, scale) if is_bicubic else ""
    return f"WARNING: {line}. {hint}" if hint else line


def find_pairs(dir_data, name, scale, data_range=None, log=None, degradation="BI"):
    """List (HR path, LR path) of a data set; the LR path is None if LR is to be made from HR.

    Only sets with `uses_data_range` look at `data_range`, (first, last). `log` is called with lines
    on skipped files. `degradation` names the folder of LR images.
    """
    spec, root = dataset_spec(name), Path(dir_data)
    hr_folder, lr_folder = (root / path for path in spec.folders(scale, degradation))
    if not hr_folder.is_dir():
        raise _missing_set(root, name, scale)
    hr = list_images(hr_folder, log)
    first, last = (1, len(hr)) if data_range is None or not spec.uses_data_range else data_range
    if last > len(hr):
        raise UserError(
            f"--data_range {first}-{last}: {name} has the images 1-{len(hr)} in {hr_folder}"
        )
    if not lr_folder.is_dir():
        return [(path, None) for path in hr[first - 1 : last]]
    mark = lr_folder / MARK
    made_by = mark.read_text(errors="replace") if mark.is_file() else degradation
    if log and made_by.split()[:1] != [degradation]:
        log(f"WARNING: {mark} says {made_by.strip()}, not --degradation {degradation}")
    files = {stem(path): path for path in list_images(lr_folder, log)}
    names = match_lr([stem(path) for path in hr], files, scale)
    found = [(path, files.get(name)) for path, name in zip(hr, names, strict=True)]
    chosen = found[first - 1 : last]
    missing = [str(lr_folder / f"{path.stem}x{scale}.png") for path, lr in chosen if lr is None]
    if missing:
        text = f"{len(missing)} of {len(chosen)} HR images have no LR image of scale {scale}:"
        raise UserError(text + bullet_list(missing))
    left = sorted(str(path) for path in set(files.values()) - {lr for _, lr in found})
    if left and not spec.uses_data_range:
        text = f"{len(left)} LR images have no HR image in {hr_folder}:"
        raise UserError(text + bullet_list(left))
    return chosen


def is_held_out(args, name):
    """Return whether the last --hold_out images of a set are kept for tests."""
    trained = name in expand_names(args.dir_data, args.data_train)
    return bool(args.hold_out) and trained and not dataset_spec(name).uses_data_range


def split_hold_out(args, name, pairs):
    """Return (pairs for training, pairs for tests): all twice, unless --hold_out splits the set."""
    count = args.hold_out
    if not is_held_out(args, name):
        return pairs, pairs
    if count >= len(pairs):
        raise UserError(
            f"{name} has {len(pairs)} images, too few to hold out {count} for tests:"
            " give --data_test a test set, or a smaller --hold_out"
        )
    return pairs[:-count], pairs[-count:]
