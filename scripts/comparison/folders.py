"""Folders of SR images that other software made, as rows of the same tables."""

import re
from pathlib import Path

from comparison.truth import to_rgb8
from data.datasets import EXTENSIONS
from data.image import image_size, read_image
from runtime.errors import UserError, bullet_list


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
    found = {}
    for image in images:
        exact = [path for path in files if path.stem == image]
        pattern = re.compile(rf"{re.escape(image)}(x{scale})?([_.-].*)?")
        # NAME_HR and NAME_LR lie beside NAME_SR in the results of this program
        fitting = [
            path
            for path in files
            if pattern.fullmatch(path.stem) and not re.search(r"_(HR|LR)$", path.stem)
        ]
        fitting = exact or fitting
        if len(fitting) > 1:
            names = bullet_list([path.name for path in fitting])
            raise UserError(f"{folder}: several files fit the image {image}:{names}")
        if fitting:
            found[image] = fitting[0]
    return found


class FolderRow:
    """A folder of SR images of one test set; has the attributes of `runs.Row` that tables use.

    Attributes:
        label: name of the row.
        tests: {(dataset, scale): {"psnr", "ssim", "images"}}, filled by `scoring.Scorer`.
    """

    is_bicubic = False
    run = None

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
        self._paths = match_files(folder, images, key[1])
        missing = [name for name in images if name not in self._paths]
        if missing:
            raise UserError(
                f"{folder} has no SR image of {len(missing)} of the {len(images)} images of "
                f"{key[0]} x{key[1]}:" + bullet_list(missing)
            )
        self.tests = {key: {"psnr": None, "ssim": None, "images": len(images), "epoch": None}}

    def sr_paths(self, key):
        """Return {image: path} of the SR images."""
        return self._paths if key == self.key else {}


def infer_scale(folder, dir_demo):
    """Return the scale of a folder of SR pictures from the size of the first LR picture of it.

    Raises:
        UserError: no picture of the folder belongs to one of `dir_demo`.
    """
    source = Path(dir_demo)
    files = [source] if source.is_file() else sorted(source.iterdir())
    for path in files:
        if path.suffix.lower() not in EXTENSIONS:
            continue
        for scale in (2, 3, 4, 8, 1):
            found = match_files(folder, [path.stem], scale).get(path.stem)
            if found is not None:
                return round(image_size(found)[1] / image_size(path)[1])
    raise UserError(f"{folder}: no picture belongs to one of --dir_demo {dir_demo}")


def read_sr(path):
    """Return an SR image (H, W, 3) uint8."""
    return to_rgb8(read_image(path))
