"""Metrics of images. PSNR and SSIM are those of the tests; other names are passed to pyiqa.

pyiqa (IQA-PyTorch) is an optional package. Its metrics see whole RGB images in [0, 1], without the
crop border of the tests, as papers report LPIPS, DISTS and NIQE.
"""

import math
from typing import NamedTuple

import torch

from checkpoint.metrics import finite_mean
from data.datasets import dataset_spec
from data.image import read_image, to_tensor
from metric import calc_psnr, calc_ssim
from runtime.errors import UserError


class Metric(NamedTuple):
    """A metric and how it is printed.

    Attributes:
        name: as given to --metrics.
        title: heading of a column.
        digits: decimals of a value; a difference has one more.
        lower_better: bool.
        needs_hr: whether it compares with an HR image.
        compute: maps (sr, hr) of pyiqa's kind to a float; None for PSNR and SSIM.
    """

    name: str
    title: str
    digits: int
    lower_better: bool = False
    needs_hr: bool = True
    compute: object = None


PSNR, SSIM = Metric("psnr", "PSNR (dB)", 2), Metric("ssim", "SSIM", 4)
OWN = {"psnr": PSNR, "ssim": SSIM}


def _load_pyiqa(name):
    try:
        import pyiqa  # optional, and takes seconds to load
    except ImportError as error:
        raise UserError(
            f"--metrics {name} needs the package pyiqa: pip install pyiqa ({error})"
        ) from error
    return pyiqa


def load_metrics(names):
    """Return the Metric of each name.

    Raises:
        UserError: pyiqa is not installed, does not know the name, or lacks the metric's weights.
    """
    metrics = []
    for name in dict.fromkeys(names):
        if name in OWN:
            metrics.append(OWN[name])
            continue
        pyiqa = _load_pyiqa(name)
        if name not in pyiqa.list_models():
            raise UserError(f"--metrics {name} must be psnr, ssim or one of pyiqa.list_models()")
        try:
            module = pyiqa.create_metric(name, device="cpu")
        except Exception as error:  # weights are downloaded: any error of a connection or a file
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise UserError(f"--metrics {name}: pyiqa cannot load it: {reason[0]}") from error
        needs_hr = module.metric_mode == "FR"
        lower = bool(module.lower_better)
        title = f"{name.upper()} {'↓' if lower else '↑'}"
        metrics.append(Metric(name, title, 4, lower, needs_hr, module))
    return metrics


def parse_metrics(text):
    """Return the names of a list such as 'psnr,ssim,lpips'.

    Raises:
        UserError: an empty name.
    """
    names = [name.strip().lower() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--metrics {text} must be names joined by commas")
    return names


def own_scores(sr, hr, key):
    """Return {"psnr": ..., "ssim": ...} of two images (H, W, C), as the tests compute them."""
    benchmark = dataset_spec(key[0]).benchmark
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
        if metric.name in OWN and row.run is not None:
            return row.tests[key].get(metric.name)
        scores = self.scores(row, key)
        values = [found[metric.name] for found in (scores or {}).values() if metric.name in found]
        return finite_mean(values) if values and len(values) == len(scores) else None

    def _compute(self, row, key):
        own = row.scores(key) if row.run is not None else self._own_of_folder(row, key)
        others = [metric for metric in self.metrics if metric.compute is not None]
        if not others:
            return own
        paths = row.sr_paths(key)
        images = list(own or paths)
        missing = [image for image in images if image not in paths]
        if missing or not images:
            self.notes.append(
                f"no {', '.join(metric.title for metric in others)} of {row.label} on {key[0]} "
                f"x{key[1]}: its SR images are not saved (test it with --save_results)"
            )
            return own
        found = {image: dict((own or {}).get(image, {})) for image in images}
        for image in images:
            hr = self.truth.hr(key, image)
            found[image].update(self.other_scores(read_image(paths[image]), hr))
        return found

    def _own_of_folder(self, row, key):
        found = {}
        for image, path in row.sr_paths(key).items():
            hr, sr = self.truth.hr(key, image), read_image(path)
            if hr is None:
                return None
            if sr.shape[:2] != hr.shape[:2]:
                raise UserError(f"{path} is {size_text(sr)}, but HR is {size_text(hr)}")
            found[image] = own_scores(sr, hr, key)
        return found

    def other_scores(self, sr, hr):
        """Return {metric name: value} of pyiqa's metrics for images (H, W, C); hr may be None."""
        values = {}
        for metric in self.metrics:
            if metric.compute is None or (metric.needs_hr and hr is None):
                continue
            images = (sr, hr) if metric.needs_hr else (sr,)
            with torch.inference_mode():
                value = float(metric.compute(*map(to_unit, images)))
            values[metric.name] = value if math.isfinite(value) else math.nan
        return values


def to_unit(image):
    """Return an image (H, W, 1 or 3) as a float tensor (1, 3, H, W) in [0, 1]."""
    tensor = to_tensor(image).float() / 255  # (C, H, W)
    return tensor.expand(3, -1, -1)[None].contiguous()


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
