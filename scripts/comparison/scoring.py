"""Scores of the images of rows: those that tests kept, others computed from saved images."""

import math

from checkpoint.metrics import finite_mean
from data.datasets import dataset_spec
from data.image import read_image, to_channels, to_tensor
from image_quality import OWN, score
from metric import calc_psnr, calc_ssim
from runtime.errors import UserError


def own_scores(sr, hr, key):
    """Return {"psnr": ..., "ssim": ...} of two images (H, W, C), as the tests compute them."""
    benchmark = dataset_spec(key[0]).benchmark
    if sr.shape[2] != hr.shape[2]:  # a gray image beside three equal channels
        sr, hr = (to_channels(image, 3) for image in (sr, hr))
    arguments = (to_tensor(sr), to_tensor(hr), key[1], 255, benchmark)
    return {"psnr": calc_psnr(*arguments), "ssim": calc_ssim(*arguments)}


class Scorer:
    """Scores of the images of rows by the metrics of a table.

    Attributes:
        metrics: list of Metric.
        notes: sentences about scores that are missing.
    """

    def __init__(self, metrics, truth):
        self.metrics, self.truth, self.notes = metrics, truth, []
        self._cache = {}

    def scores(self, row, key):
        """Return {image: {metric name: value}} of a row's test; None if they are unknown."""
        if (id(row), key) not in self._cache:
            self._cache[id(row), key] = self._compute(row, key)
        return self._cache[id(row), key]

    def mean(self, row, key, metric):
        """Return the mean of a metric over the images of a row's test, or None."""
        if key not in row.tests:
            return None
        if row.run is not None and (metric.name in OWN or metric.name in row.tests[key]):
            return row.tests[key].get(metric.name)
        scores = self.scores(row, key)
        values = [found[metric.name] for found in (scores or {}).values() if metric.name in found]
        return finite_mean(values) if values and len(values) == len(scores) else None

    def _compute(self, row, key):
        own = row.scores(key) if row.run is not None else self._own_of_folder(row, key)
        kept = set().union(*(own or {}).values())
        others = [m for m in self.metrics if m.compute is not None and m.name not in kept]
        if not others:
            return own
        paths = row.sr_paths(key)
        images = list(own or paths)
        titles = ", ".join(metric.title for metric in others)
        problem = f"no {titles} of {row.label} on {key[0]} x{key[1]}: its SR images are"
        if not images or any(image not in paths for image in images):
            self.notes.append(f"{problem} not saved (test it with --save_results)")
            return own
        found = {}
        for image in images:
            hr, sr = self.truth.hr(key, image), read_image(paths[image])
            if own and hr is not None and not self._is_of_test(own[image]["psnr"], sr, hr, key):
                self.notes.append(f"{problem} of another test (test it again with --save_results)")
                return own
            found[image] = dict((own or {}).get(image, {})) | other_scores(others, sr, hr, image)
        return found

    def _is_of_test(self, psnr, sr, hr, key):
        """Return whether a saved SR image has the PSNR that its test has recorded."""
        if sr.shape[:2] != hr.shape[:2]:
            return False
        # HR of 16 bits is saved with 8
        return math.isclose(own_scores(sr, hr, key)["psnr"], psnr, rel_tol=0, abs_tol=0.005)

    def _own_of_folder(self, row, key):
        found = {}
        for image, path in row.sr_paths(key).items():
            hr, sr = self.truth.hr(key, image), read_image(path)
            if hr is None:
                return None
            if sr.shape[:2] != hr.shape[:2]:
                sizes = f"{size_text(hr)}, it is {size_text(sr)}"
                raise UserError(f"{path} must have the size of HR, {sizes}")
            found[image] = own_scores(sr, hr, key)
        return found


def other_scores(metrics, sr, hr, image):
    """Return {metric name: value} of the metrics of pyiqa.

    Args:
        metrics: list of Metric.
        sr, hr: images (H, W, C); without HR, metrics that need it are left out.
        image: name of the image, for messages.
    """
    usable = [m for m in metrics if m.compute and (hr is not None or not m.needs_hr)]
    tensors = [None if x is None else to_tensor(x) for x in (sr, hr)]
    return {metric.name: score(metric, *tensors, image) for metric in usable}


def size_text(image):
    """Return "WxH pixels" of an image (H, W, C)."""
    return f"{image.shape[1]}x{image.shape[0]} pixels"


def fill_folder_rows(rows, scorer):
    """Fill in the tests of folder rows: the means of PSNR and SSIM over their images."""
    for row in rows:
        if row.run is None:
            for key, test in row.tests.items():
                for metric in OWN.values():
                    test[metric.name] = scorer.mean(row, key, metric)
