"""Scores of the images of rows: those that tests kept, others computed from saved images."""

import math

from checkpoint.metrics import finite_mean
from data.datasets import dataset_spec
from data.image import read_image, to_channels, to_tensor
from image_quality import OWN, score
from metric import calc_psnr, calc_ssim
from runtime.files import UserError

SAME_PSNR = 0.005  # dB; HR of 16 bits is saved with 8


def own_scores(sr, hr, key, name):
    """Return {"psnr": ..., "ssim": ...} of two images (H, W, C), as tests do.

    Raises:
        UserError: nothing is left of the image, which `name` names, inside the crop border.
    """
    arguments = (to_tensor(sr), to_tensor(hr), key[1], 255, dataset_spec(key[0]).benchmark)
    try:
        return {"psnr": calc_psnr(*arguments), "ssim": calc_ssim(*arguments)}
    except ValueError as error:
        raise UserError(f"{name} on {key[0]} x{key[1]} cannot be scored: {error}") from error


def _to_luma(image, is_luma):
    return image if is_luma and image.shape[2] == 1 else to_channels(image, 1)


def is_same_psnr(a, b):
    """Return whether two PSNR are of the same image."""
    return math.isclose(a, b, rel_tol=0, abs_tol=SAME_PSNR)


def _is_whole_test(row, key, scores):
    """Return whether scores of saved images have the means that their test has recorded."""
    test = row.tests[key]
    psnrs = [found["psnr"] for found in scores.values() if "psnr" in found]
    means = finite_mean(psnrs), test["psnr"]
    is_same = means[0] is means[1] or (None not in means and is_same_psnr(*means))
    return is_same and test.get("images", len(scores)) == len(scores)


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
        recorded = row.tests[key] if row.run is not None else {}
        titles = ", ".join(metric.title for metric in others if metric.name not in recorded)
        problem = f"no {titles} of {row.label} on {key[0]} x{key[1]}: its SR images are"
        if not images or any(image not in paths for image in images):
            self.notes += [f"{problem} not saved (test it with --save_results)"] if titles else []
            return own
        found = {}
        for image in images:
            sr, hr = self.matched(read_image(paths[image]), key, image, row.is_luma)
            if hr is not None and sr.shape[:2] != hr.shape[:2]:
                break
            mine = {} if hr is None else own_scores(sr, hr, key, image)
            if own and mine and not is_same_psnr(own[image]["psnr"], mine["psnr"]):
                break
            found[image] = (own[image] if own else mine) | other_scores(others, sr, hr, image)
        if len(found) < len(images) or not (own or _is_whole_test(row, key, found)):
            problem += " of another test (test it again with --save_results)"
            self.notes += [problem] if titles else []
            return own
        return found

    def matched(self, sr, key, image, is_luma):
        """Return an SR image and HR with the channels in which tests compare them.

        Tests of --n_colors 1 compare Y, the others three channels: gray ones are repeated.

        Args:
            sr: (H, W, C).
            key: (dataset, scale).
            image: name.
            is_luma: whether SR is Y.

        Returns:
            (sr, hr); hr is None without ground truth.
        """
        hr, hr_is_luma = self.truth.hr(key, image), self.truth.is_luma(key)
        if hr is None:
            return sr, None
        if is_luma or hr_is_luma:
            return _to_luma(sr, True), _to_luma(hr, hr_is_luma)
        return to_channels(sr, 3), to_channels(hr, 3)

    def _own_of_folder(self, row, key):
        found = {}
        for image, path in row.sr_paths(key).items():
            sr, hr = self.matched(read_image(path), key, image, row.is_luma)
            if hr is None:
                return None
            if sr.shape[:2] != hr.shape[:2]:
                sizes = f"{size_text(hr)}, it is {size_text(sr)}"
                raise UserError(f"{path} must have the size of HR, {sizes}")
            found[image] = own_scores(sr, hr, key, path)
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
    """Fill in mean PSNR and SSIM of the tests of folder rows."""
    for row in rows:
        if row.run is None:
            for key, test in row.tests.items():
                for metric in OWN.values():
                    test[metric.name] = scorer.mean(row, key, metric)
