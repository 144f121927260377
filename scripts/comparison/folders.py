"""Folders of SR images that other software made, as rows of the same tables."""

import re
from pathlib import Path

from data.datasets import EXTENSIONS
from data.image import image_size
from runtime.files import UserError, bullet_list


def parse_folder(text):
    """Return (name, path) of NAME=FOLDER.

    Raises:
        UserError: another form, or no such folder.
    """
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise UserError(f"--images {text} must have the form NAME=FOLDER")
    if not Path(folder).is_dir():
        raise UserError(f"--images {text}: no such folder: {folder}")
    return name, Path(folder)


def match_files(folder, images, scale):
    """Return {image: path} of the files of a folder that belong to images.

    The name of a file is that of the image, followed by nothing or by the scale and any words:
    baby.png, babyx4.png, baby_x4.png, baby_x4_SR.png, baby_RCAN_x4.png.

    Args:
        folder: a Path.
        images: names of images without extension.
        scale: int.

    Raises:
        UserError: several files fit an image.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    fitting, longest_first = {}, sorted(images, key=len, reverse=True)
    for path in files:
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
    """A folder of SR images of one test set, as a row of a table.

    Attributes:
        label: name of the row.
        tests: {(dataset, scale): {"psnr", "ssim", "images"}}, filled by `scoring.Scorer`.
    """

    is_bicubic = is_luma = False
    run, suffix = None, ""

    def __init__(self, label, folder, key, truth):
        """Match files with the images of a test set.

        Args:
            label: name of the row.
            folder: a Path.
            key: (dataset, scale).
            truth: truth.Truth.

        Raises:
            UserError: no image of the set is in the folder, or images of the set are missing.
        """
        self.label, self.folder, self.key = label, folder, key
        images = list(truth.pairs(key))
        if not images:
            raise UserError(
                f"--images {label}={folder}: no HR images of {key[0]} x{key[1]} found: give "
                "--dir_data, or an experiment that was tested with --save_results --save_gt"
            )
        if len(images) < (n_tested := truth.n_tested(key)):
            raise UserError(
                f"--images {label}={folder}: {len(images)} of {n_tested} HR images of {key[0]} "
                f"x{key[1]} found: give --dir_data, or repeat a test with --save_results --save_gt"
            )
        self._paths = match_files(folder, images, key[1])
        missing = [name for name in images if name not in self._paths]
        if missing:
            raise UserError(
                f"{folder} has no SR image of {len(missing)} of the {len(images)} images of "
                f"{key[0]} x{key[1]}:" + bullet_list(missing)
            )
        self.tests = {key: {"psnr": None, "ssim": None, "images": len(images), "epoch": None}}

    @property
    def family(self):
        """The folder itself: it has a single row."""
        return self

    def sr_paths(self, key):
        """Return {image: path} of the SR images."""
        return self._paths if key == self.key else {}


def infer_scale(folder, dir_demo):
    """Return the scale of a folder of SR pictures, from its first LR picture.

    Raises:
        UserError: no picture of the folder belongs to one of `dir_demo`.
    """
    source = Path(dir_demo)
    files = [source] if source.is_file() else sorted(source.iterdir())
    pictures = {path.stem: path for path in files if path.suffix.lower() in EXTENSIONS}
    for scale in (2, 3, 4, 8, 1):
        for name, found in match_files(folder, list(pictures), scale).items():
            return round(image_size(found)[1] / image_size(pictures[name])[1])
    raise UserError(f"{folder}: no picture belongs to one of --dir_demo {dir_demo}")
