"""Images of test sets: HR and LR, and folders of SR images that other software made."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoint.metrics import results_dir
from comparison.runs import printable
from data.datasets import DEMO_SETS, EXTENSIONS, find_pairs
from data.image import image_size, read_image, to_channels
from data.resize import imresize
from runtime.files import UserError, bullet_list


class Pair(NamedTuple):
    """Paths of an HR and an LR image; either may be None."""

    hr: Path | None = None
    lr: Path | None = None


def _pictures(path):
    """Return the image files of a folder, sorted, or a single file."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if file.suffix.lower() in EXTENSIONS]


class Truth:
    """Find and read the HR and LR images of test sets."""

    def __init__(self, dir_data, runs, dir_demo=None):
        """Remember where to look: in what tests of runs saved, then in `dir_data`.

        `dir_demo` is the folder of the LR pictures of Demo, or None.
        """
        self.dir_data, self.dir_demo = Path(dir_data), dir_demo and Path(dir_demo)
        self.runs = runs
        names = [run.flags.get("degradation", "BI") for run in runs if run.rows]
        self.degradation = names[0] if names else "BI"
        self._found = {}  # key: (pairs, is_luma)

    def pairs(self, key):
        """Return {image: Pair} of (dataset, scale); {} if nothing is found."""
        return self._find(key)[0]

    def is_luma(self, key):
        """Return whether the images of a set are Y of --n_colors 1."""
        return self._find(key)[1]

    def n_tested(self, key):
        """Return the largest number of images that a run was tested on."""
        tests = [row.tests[key] for run in self.runs for row in run.rows if key in row.tests]
        counts = [test.get("images") for test in tests]
        return max((n for n in counts if isinstance(n, int)), default=0)

    def _find(self, key):
        if key not in self._found:
            color = [run for run in self.runs if not run.is_luma]
            gray = [run for run in self.runs if run.is_luma]
            sources = (
                (lambda: self._saved(color, key), False),
                (lambda: self._from_data(key), False),
                (lambda: self._saved(gray, key), True),
            )
            self._found[key] = {}, False
            for find, is_luma in sources:
                pairs = find()
                if len(pairs) > len(self._found[key][0]):
                    self._found[key] = pairs, is_luma
                if pairs and len(pairs) >= self.n_tested(key):
                    break  # an incomplete source counts only without a better one
        return self._found[key]

    @staticmethod
    def _saved(runs, key):
        found = {}
        folders = [results_dir(run.folder, key[0]) for run in runs]
        # tests made in another way than the plain one write beside it
        others = [p for f in folders for p in sorted(f.parent.glob(f"{f.name}+*"))]
        for results in [*folders, *others]:
            for kind in ("HR", "LR"):
                end = f"_x{key[1]}_{kind}.png"
                for path in sorted(results.glob(f"*{end}")):
                    pair = found.setdefault(path.name.removesuffix(end), {})
                    pair.setdefault(kind.lower(), path)
        return {name: Pair(**kinds) for name, kinds in found.items()}

    def _from_data(self, key):
        name, scale = key
        if name in DEMO_SETS:
            if self.dir_demo is None:
                return {}
            if not self.dir_demo.exists():
                raise UserError(f"--dir_demo {self.dir_demo}: no such file or folder")
            return {path.stem: Pair(None, path) for path in _pictures(self.dir_demo)}
        try:
            pairs = find_pairs(self.dir_data, name, scale, degradation=self.degradation)
        except UserError:
            return {}
        return {hr.stem: Pair(hr, lr) for hr, lr in pairs}

    def hr(self, key, image):
        """Return HR (H, W, C), cropped to a multiple of the scale, or None."""
        pair = self.pairs(key).get(image, Pair())
        if pair.hr is None:
            return None
        hr = read_image(pair.hr)
        size = hr.shape[:2] if pair.lr is None else np.array(read_image(pair.lr).shape[:2]) * key[1]
        height, width = (min(a, b) // key[1] * key[1] for a, b in zip(hr.shape, size, strict=False))
        return hr[:height, :width]

    def bicubic(self, key, image):
        """Return LR upscaled by bicubic, (H, W, C); None without LR, or HR of which it is made."""
        pair = self.pairs(key).get(image, Pair())
        if pair.lr is not None:
            return imresize(read_image(pair.lr), key[1])
        hr = self.hr(key, image)
        if hr is None or self.degradation != "BI":
            return None
        return imresize(imresize(hr, 1 / key[1]), key[1])


def to_rgb8(image):
    """Return an image, gray or of 16 bits too, as (H, W, 3) uint8."""
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    return np.ascontiguousarray(to_channels(image, 3))


# ------------------------------------------------------------ folders of --images


def parse_folder(text):
    """Return (name, path) of NAME=FOLDER."""
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise UserError(f"--images {text} must have the form NAME=FOLDER")
    if not Path(folder).is_dir():
        raise UserError(f"--images {text}: no such folder: {folder}")
    return printable(name), Path(folder)


def match_files(folder, images, scale):
    """Return {image: path} of the files of a folder that belong to images.

    The name of a file is that of the image, followed by nothing or by the scale and any words:
    baby.png, babyx4.png, baby_x4.png, baby_x4_SR.png, baby_RCAN_x4.png.
    """
    fitting, longest_first = {}, sorted(images, key=len, reverse=True)
    for path in _pictures(folder):
        # the image with the longest name that fits: img_1_2.png is not of img_1
        for image in longest_first:
            rest = path.stem[len(image) :]
            if path.stem.startswith(image) and re.fullmatch(r"(x\d+)?([_.-].*)?", rest):
                # NAME_HR and NAME_LR lie beside NAME_SR in the results of this program
                scales = re.findall(r"(?<![^\W_])x(\d+)(?![^\W_])", rest)
                if not re.search(r"_(HR|LR)$", rest) and set(scales) <= {str(scale)}:
                    fitting.setdefault(image, []).append(path)
                break
    found = {}
    for image in images:
        paths = fitting.get(image, [])
        paths = [path for path in paths if path.stem == image] or paths
        if len(paths) > 1:
            names = bullet_list([path.name for path in paths])
            raise UserError(f"{folder}: several files fit the image {image}:{names}")
        if paths:
            found[image] = paths[0]
    return found


class FolderRow:
    """A folder of SR images of one test set, as a row; `Scorer.fill` fills in its `tests`."""

    is_bicubic = is_luma = False
    run, suffix = None, ""

    def __init__(self, label, folder, key, truth):
        """Match the files of a folder with the images of the test set of a key."""
        self.label, self.folder, self.key = label, folder, key
        self.family = self  # a single row
        images, where = list(truth.pairs(key)), f"{key[0]} x{key[1]}"
        n_tested = truth.n_tested(key)
        if not images or len(images) < n_tested:
            found = f"{len(images)} of {n_tested}" if images else "no"
            raise UserError(
                f"--images {label}={folder}: {found} HR images of {where} found: give --dir_data, "
                "or an experiment that was tested with --save_results --save_gt"
            )
        self._paths = match_files(folder, images, key[1])
        if missing := [name for name in images if name not in self._paths]:
            counts = f"{len(missing)} of the {len(images)} images of {where}"
            raise UserError(f"{folder} has no SR image of {counts}:{bullet_list(missing)}")
        self.tests = {key: {"psnr": None, "ssim": None, "images": len(images), "epoch": None}}

    def sr_paths(self, key):
        """Return {image: path} of the SR images."""
        return self._paths if key == self.key else {}


def infer_scale(folder, dir_demo):
    """Return the scale of a folder of SR pictures, from its first LR picture."""
    pictures = {path.stem: path for path in _pictures(Path(dir_demo))}
    for scale in (2, 3, 4, 8, 1):
        for name, found in match_files(folder, list(pictures), scale).items():
            return round(image_size(found)[1] / image_size(pictures[name])[1])
    raise UserError(f"{folder}: no picture belongs to one of --dir_demo {dir_demo}")
