"""Metrics of --metrics beside PSNR and SSIM: haar, and those of the optional package pyiqa.

They see whole RGB images in [0, 1], without a crop border, as papers report LPIPS and NIQE.
"""

import math
from typing import NamedTuple

import torch
from torch.nn.functional import avg_pool2d

from metric import float64_device
from runtime.files import UserError
from runtime.process import is_out_of_memory, pip_install


class Metric(NamedTuple):
    """A metric and how it is printed."""

    name: str  # as given to --metrics
    title: str  # heading of a column
    digits: int  # decimals of a value; a difference has one more
    lower_better: bool = False
    needs_hr: bool = True
    compute: object = None  # maps SR and HR (1, 3, H, W) in [0, 1] to a number; not PSNR and SSIM
    target: float | None = None  # the best value, if it is neither the highest nor the lowest

    def distance(self, value):
        """Return a number that is lower for a better value."""
        if self.target is not None:
            return abs(value - self.target)
        return value if self.lower_better else -value


def _haar_energy(x):
    """Return the Haar high-frequency energy (LH, HL, HH) of an image (1, C, H, W)."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2].to(float64_device(x)).double()
    low = 2 * avg_pool2d(x, 2)  # LL of the orthonormal transform, which keeps the energy
    return x.square().sum() - low.square().sum()


def haar_share(sr, hr):
    """Return the Haar high-frequency energy of SR (1, C, H, W) over that of HR; 1: as sharp."""
    return _haar_energy(sr) / _haar_energy(hr)


PSNR, SSIM = Metric("psnr", "PSNR (dB)", 2), Metric("ssim", "SSIM", 4)
OWN = {"psnr": PSNR, "ssim": SSIM}  # in tests, whether --metrics names them or not
WITHOUT_PYIQA = OWN | {"haar": Metric("haar", "HF energy", 3, compute=haar_share, target=1.0)}


def parse_metrics(text):
    """Return the names of 'psnr,ssim,lpips', once each; an empty name is a ValueError."""
    names = [name.strip().lower() for name in text.split(",")]
    if not all(names):
        raise ValueError(text)
    return list(dict.fromkeys(names))


def load_metrics(names, device="cpu"):
    """Return the Metric of each name."""
    return [WITHOUT_PYIQA.get(name) or _load_from_pyiqa(name, device) for name in names]


def _load_from_pyiqa(name, device):
    try:
        import pyiqa  # optional, and takes seconds to load
    except ImportError as error:
        raise UserError(
            f"--metrics {name} needs the package pyiqa: {pip_install('pyiqa')} ({error})"
        ) from error
    except RuntimeError as error:  # torchvision is installed for another version of torch
        raise UserError(f"--metrics {name}: pyiqa cannot be imported: {error}") from error
    if name not in pyiqa.list_models():
        own = ", ".join(WITHOUT_PYIQA)
        raise UserError(f"--metrics {name} must be {own} or one of pyiqa.list_models()")
    try:
        module = pyiqa.create_metric(name, device=device)
    except Exception as error:  # weights are downloaded: any error of a connection or a file
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"--metrics {name}: pyiqa cannot load it: {reason[0]}") from error
    lower = bool(module.lower_better)
    title = f"{name.upper()} {'↓' if lower else '↑'}"
    return Metric(name, title, 4, lower, module.metric_mode == "FR", module)


def score(metric, sr, hr, image):
    """Return the value of a metric that has `compute`; nan if it is not finite.

    `sr` and `hr` are tensors (1 or 3, H, W) in [0, 255], `hr` None if the metric does not need it;
    `image` is the name of the image, for messages.
    """
    images = (sr, hr) if metric.needs_hr else (sr,)
    try:
        with torch.inference_mode():  # (1, 3, H, W) in [0, 1]
            images = [(x.float() / 255).expand(3, -1, -1)[None].contiguous() for x in images]
            value = float(metric.compute(*images))
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"--metrics {metric.name}: cannot score {image}: {error}") from error
    return value if math.isfinite(value) else math.nan
