"""Images of test sets: HR and LR, and folders of SR images that other software made."""

import os
import re
from pathlib import Path

import numpy as np

from checkpoint.metrics import results_dir
from comparison.runs import printable
from data.datasets import DEMO_SETS, EXTENSIONS, find_pairs
from data.image import image_size, read_image, to_channels, to_tensor, to_uint8
from data.resize import imresize
from runtime.files import UserError, bullet_list


def _pictures(path):
    """Return the image files of a folder, sorted, or a single file."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if file.suffix.lower() in EXTENSIONS and file.name[0] != "."]


class Truth:
    """Find and read the HR and LR images of test sets."""

    def __init__(self, dir_data, runs, dir_demo=None):
        """Remember where to look: in what tests of runs saved, then in the folders of data."""
        self.dir_data, self.runs, self.dir_demo = dir_data, runs, dir_demo
        names = [x["degradation"] for run in runs for row in run.rows for x in row.tests.values()]
        self.degradation = names[0] if names else "BI"
        self._found = {}  # key: the result of `find`

    def find(self, key):
        """Return ({image: {"HR": path, "LR": path}}, whether they are Y of --n_colors 1).

        They are of the first source with all images of the tests, else of that with most images.
        """
        if key not in self._found:
            color = [run for run in self.runs if not run.is_luma]
            gray = [run for run in self.runs if run.is_luma]
            sources = [(self._saved(color, key), False), (self._from_data(key), False)]
            sources.append((self._saved(gray, key), True))
            enough = max(self.n_tested(key), 1)
            self._found[key] = max(sources, key=lambda source: min(len(source[0]), enough))
        return self._found[key]

    def n_tested(self, key):
        """Return the largest number of images that a run was tested on."""
        tests = [row.tests[key] for run in self.runs for row in run.rows if key in row.tests]
        return max((test.get("images") or 0 for test in tests), default=0)

    @staticmethod
    def _saved(runs, key):
        found = {}
        folders = [results_dir(run.folder, key[0]) for run in runs]
        # tests made in another way than the plain one write beside it
        folders += [p for f in folders for p in sorted(f.parent.glob(f"{f.name}+*"))]
        for folder in folders:
            for path in sorted(folder.glob(f"*_x{key[1]}_[HL]R.png")):
                name, _, kind = path.stem.rsplit("_", 2)
                found.setdefault(name, {}).setdefault(kind, path)
        return found

    def _from_data(self, key):
        name, scale = key
        if name in DEMO_SETS:
            if self.dir_demo is None:
                return {}
            if not self.dir_demo.exists():
                raise UserError(f"--dir_demo {self.dir_demo}: no such file or folder")
            return {path.stem: {"LR": path} for path in _pictures(self.dir_demo)}
        try:
            pairs = find_pairs(self.dir_data, name, scale, degradation=self.degradation)
        except UserError:
            return {}
        return {hr.stem: {"HR": hr, "LR": lr} for hr, lr in pairs}

    def hr(self, key, image):
        """Return HR (H, W, C), cropped to a multiple of the scale, or None."""
        files = self.find(key)[0].get(image, {})
        if not files.get("HR"):
            return None
        hr = read_image(files["HR"])
        height, width = (side // key[1] for side in hr.shape[:2])
        if files.get("LR"):
            height, width = np.minimum((height, width), read_image(files["LR"]).shape[:2])
        return hr[: height * key[1], : width * key[1]]

    def bicubic(self, key, image):
        """Return LR upscaled by bicubic, (H, W, C); None without LR, or HR of which it is made."""
        files, hr = self.find(key)[0].get(image, {}), self.hr(key, image)
        if files.get("LR"):
            lr = read_image(files["LR"])
            if hr is not None:  # tests compare the common part of HR and LR
                lr = lr[: hr.shape[0] // key[1], : hr.shape[1] // key[1]]
            return imresize(lr, key[1])
        if hr is None or self.degradation != "BI":
            return None
        return imresize(imresize(hr, 1 / key[1]), key[1])


def to_rgb8(image):
    """Return an image, gray or of 16 bits too, as (H, W, 3) uint8."""
    return to_uint8(to_tensor(to_channels(image, 3)), 255)


def parse_folder(text):
    """Return (name, path) of NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise UserError(f"--images {text} must have the form NAME=FOLDER")
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise UserError(f"--images {text}: no such folder: {path}")
    return printable(name), path


def match_files(folder, images, scale):
    """Return {image: path} of the files of a folder that belong to images.

    The name of a file is that of the image, followed by nothing or by the scale and any words:
    baby.png, babyx4.png, baby_x4.png, baby_x4_SR.png, baby_RCAN_x4.png.
    """
    files, found = _pictures(folder), dict.fromkeys(images)
    for image in sorted(images, key=len, reverse=True):  # img_1_2.png is not of img_1
        rests = {path: path.stem[len(image) :] for path in files if path.stem.startswith(image)}
        rests = {p: rest for p, rest in rests.items() if re.fullmatch(r"(x\d+)?([_.-].*)?", rest)}
        files = [path for path in files if path not in rests]
        fitting = []
        for path, rest in rests.items():
            scales = re.findall(r"(?<![^\W_])x(\d+)(?![^\W_])", rest)
            # NAME_HR and NAME_LR lie beside NAME_SR in the results of this program
            if set(scales) <= {str(scale)} and not rest.endswith(("_HR", "_LR")):
                fitting.append(path)
        fitting = [path for path in fitting if path.stem == image] or fitting
        if len(fitting) > 1:
            names = bullet_list([path.name for path in fitting])
            raise UserError(f"{folder}: several files fit the image {image}:{names}")
        found[image] = fitting[0] if fitting else None
    return {image: path for image, path in found.items() if path}


class FolderRow:
    """A folder of SR images of one test set, as a row."""

    is_bicubic = is_luma = False
    run, seed, suffix, notes = None, None, "", ()

    def __init__(self, label, folder, key, truth):
        """Match the files of a folder with the images of the test set of a key."""
        self.label, self.folder, self.key = label, folder, key
        self.family, self.rows = self, [self]
        tests = [row.scores(key) or {} for run in truth.runs for row in run.rows]
        tested = set().union(*tests)  # they may be a part of the set's folder
        images = [name for name in truth.find(key)[0] if name in tested or not tested]
        where, n_tested = f"{key[0]} x{key[1]}", truth.n_tested(key)
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
        self.tests = {key: {"images": len(images)}}

    def scores(self, key):
        """Return None: no test kept the scores of these images."""

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
