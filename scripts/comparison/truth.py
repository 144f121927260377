"""HR and LR images of a test set: saved by a test, or of --dir_data."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoint.metrics import results_dir
from data.datasets import DEMO_SETS, EXTENSIONS, find_pairs
from data.image import read_image, to_channels
from data.resize import imresize
from runtime.files import UserError


class Pair(NamedTuple):
    """Paths of an HR and an LR image; either may be None."""

    hr: Path | None
    lr: Path | None


class Truth:
    """Find and read the HR and LR images of test sets."""

    def __init__(self, dir_data, runs, dir_demo=None):
        """Remember where to look.

        Args:
            dir_data: folder of the data sets.
            runs: list of Run; HR and LR images that their tests saved come first.
            dir_demo: folder of the LR pictures of Demo, or None.
        """
        self.dir_data, self.dir_demo = Path(dir_data), dir_demo and Path(dir_demo)
        self.runs = runs
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
                    pair.setdefault(kind, path)
        return {name: Pair(kinds.get("HR"), kinds.get("LR")) for name, kinds in found.items()}

    def _from_data(self, key):
        name, scale = key
        if name in DEMO_SETS:
            if self.dir_demo is None:
                return {}
            if not self.dir_demo.exists():
                raise UserError(f"--dir_demo {self.dir_demo}: no such file or folder")
            files = [self.dir_demo] if self.dir_demo.is_file() else sorted(self.dir_demo.iterdir())
            pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
            return {path.stem: Pair(None, path) for path in pictures}
        try:
            pairs = find_pairs(self.dir_data, name, scale)
        except UserError:
            return {}
        return {hr.stem: Pair(hr, lr) for hr, lr in pairs}

    def hr(self, key, image):
        """Return HR (H, W, C), cropped to a multiple of the scale, or None."""
        pair = self.pairs(key).get(image, Pair(None, None))
        if pair.hr is None:
            return None
        hr = read_image(pair.hr)
        size = hr.shape[:2] if pair.lr is None else np.array(read_image(pair.lr).shape[:2]) * key[1]
        height, width = (min(a, b) // key[1] * key[1] for a, b in zip(hr.shape, size, strict=False))
        return hr[:height, :width]

    def lr(self, key, image):
        """Return LR (H, W, C), made from HR if it is missing, or None."""
        pair = self.pairs(key).get(image, Pair(None, None))
        if pair.lr is not None:
            return read_image(pair.lr)
        hr = self.hr(key, image)
        return None if hr is None else imresize(hr, 1 / key[1])

    def bicubic(self, key, image):
        """Return LR upscaled by bicubic, (H, W, C); None without LR."""
        lr = self.lr(key, image)
        return None if lr is None else imresize(lr, key[1])


def to_rgb8(image):
    """Return an image, gray or of 16 bits too, as (H, W, 3) uint8."""
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    return np.ascontiguousarray(to_channels(image, 3))
