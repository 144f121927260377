"""Degradations that make LR images from HR, the choices of --degradation.

A new one is a class here, or in a file of its own, and a line in `DEGRADATIONS`. Training, tests,
the cache and scripts/prepare_data.py use it alike.
"""

import functools
import hashlib
import io
import math
import unicodedata
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.sparse
from PIL import Image

from data.resize import cubic, downsample, weigh_rows
from runtime.files import UserError

NOISE_SIGMAS = (1.0, 25.0)  # in 8-bit steps
JPEG_QUALITIES = (30, 95)
PURPOSE = 3  # of the generator of a training sample; 0 to 2 belong to patches.py


class Degradation:
    """A rule that makes LR images; derived classes define `__call__`.

    Attributes:
        scales: the scales for which it is defined; empty: all.
        per_sample: draw anew for each training patch; else LR is made once from whole images.
        margin: with per_sample, LR pixels around a patch that are made and cut off, so that its
            border does not differ from its interior.
    """

    scales = ()
    per_sample = False
    margin = 4

    def __call__(self, hr, scale, rng):
        """Return the LR image (H/scale, W/scale, C) of hr (H, W, C), uint8 or uint16.

        H and W are multiples of the scale; rng is the numpy Generator of this image or patch.
        """
        raise NotImplementedError

    def plan(self, scale, rng):
        """Return (margin, function hr -> lr) of one patch or image."""
        return self.margin, lambda hr: self(hr, scale, rng)


class BI(Degradation):
    """Bicubic downsampling of MATLAB."""

    def __call__(self, hr, scale, rng):
        return downsample(hr, scale)


class BD(Degradation):
    """Gaussian blur of sigma 1.6, then every scale-th pixel (RDN, Zhang et al., CVPR 2018).

    As RDN's script: a kernel of 7x7 at x3; at even scales one of even size, centered between pixels
    as the pixels of LR are. Borders are replicated, and the result is rounded half up.
    """

    scales = (2, 3, 4)
    sigma = 1.6

    def __call__(self, hr, scale, rng):
        size = 7 if scale == 3 else 2 * math.ceil(3 * self.sigma) + 2
        weights = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * self.sigma**2))
        weights /= weights.sum()
        lr = hr
        for _ in range(2):  # rows, then columns
            first = np.arange((scale - 1) // 2, len(lr), scale) - (size - 1) // 2
            indices = np.clip(first[:, None] + np.arange(size), 0, len(lr) - 1)
            lr = weigh_rows(lr, indices, np.tile(weights, (len(first), 1))).swapaxes(0, 1)
        return to_pixels(lr, hr.dtype)


class DN(Degradation):
    """Bicubic downsampling, then Gaussian noise of 30 (RDN, Zhang et al., CVPR 2018)."""

    scales = (3,)
    sigma = 30  # in 8-bit steps

    def __call__(self, hr, scale, rng):
        lr = downsample(hr, scale)
        return to_pixels(lr + rng.normal(0, self.sigma * _unit(hr.dtype), lr.shape), hr.dtype)


class Real(Degradation):
    """Blur, downsampling, noise and JPEG in random order, then JPEG, for photographs.

    The limits are those of BSRGAN (Zhang et al., ICCV 2021, section 3); its shuffled chain without
    the camera's processing. Kernels are Gaussians without truncation. Poisson noise is its normal
    approximation. LR has 8 bits.
    """

    per_sample = True

    def plan(self, scale, rng):
        steps = [_draw_blur(scale, rng), _draw_downsampling(scale, rng)]
        if rng.random() < 0.5:
            steps.append(_draw_blur(scale, rng))
        if rng.random() < 0.75:
            steps.append((functools.partial(_add_noise, _draw_gaussian(rng), rng), 0))
        if rng.random() < 0.25:
            steps.append((functools.partial(_add_noise, _draw_poisson(rng), rng), 0))
        if rng.random() < 0.5:
            steps.append((functools.partial(_jpeg_float, rng), 0))
        order = rng.permutation(len(steps)).tolist()
        at_hr = order[: order.index(1)]  # steps before the downsampling, which is steps[1]
        radius = sum(radius / (scale if i in at_hr else 1) for i, (_, radius) in enumerate(steps))

        def apply(hr):
            x = hr.astype(np.float32) / np.float32(_unit(hr.dtype))
            for i in order:
                x = steps[i][0](x)
            return random_jpeg(to_pixels(x), rng)

        return math.ceil(radius), apply


DEGRADATIONS = {"BI": BI(), "BD": BD(), "DN": DN(), "real": Real()}


# ---------------------------------------------------------------- LR images


def image_generator(seed, name):
    """Return the generator of a whole image: it depends on the seed and the name without ending."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogateescape"))
    return np.random.default_rng([seed, *np.frombuffer(digest.digest()[:16], "<u4").tolist()])


def image_lr(degradation, scale, seed):
    """Return the function (hr, path) -> LR image of a whole image."""

    def make(hr, path):
        return make_lr(degradation, hr, scale, image_generator(seed, Path(path).stem))

    return make


def sample_generator(seed, epoch, index):
    """Return the generator of a training sample, apart from that of its place and augmentation."""
    return np.random.default_rng([seed, epoch, index, PURPOSE])


def make_lr(degradation, hr, scale, rng, window=None):
    """Return LR of an HR image, or of a window of it.

    Args:
        degradation: a Degradation.
        hr: (H, W, C), uint8 or uint16.
        scale: int.
        rng: the Generator of the image or patch.
        window: (top, left, height, width) in LR pixels; None: the whole image.

    Returns:
        array (height, width, C); with per_sample, HR is mirrored at the border of the image.
    """
    size = [side // scale for side in hr.shape[:2]]
    if not all(size):
        raise UserError(f"{hr.shape[1]}x{hr.shape[0]} pixels are too few for scale {scale}")
    if not degradation.per_sample:
        return degradation(hr[: size[0] * scale, : size[1] * scale], scale, rng)
    top, left, height, width = window or (0, 0, *size)
    margin, apply = degradation.plan(scale, rng)
    for axis, (first, length) in enumerate(((top, height), (left, width))):
        start, end = (first - margin) * scale, (first + length + margin) * scale
        if start >= 0 and end <= size[axis] * scale:
            hr = hr[start:end] if axis == 0 else hr[:, start:end]
        else:
            hr = hr.take(_mirror(np.arange(start, end), size[axis] * scale), axis)
    return apply(hr)[margin : margin + height, margin : margin + width]


def _mirror(indices, length):
    """Return indices reflected into [0, length) at the edges of the border pixels."""
    indices = indices % (2 * length)
    return np.where(indices < length, indices, 2 * length - 1 - indices)


@functools.cache
def fingerprint(name, scale, seed):
    """Return hexadecimal digits of what a degradation makes of small images.

    It names cached LR images, so that they are made again after a change of the code.
    """
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        hr = rng.integers(0, np.iinfo(dtype).max, (13 * scale, 11 * scale, 3), dtype)
        lr = make_lr(DEGRADATIONS[name], hr, scale, image_generator(seed, "fingerprint"))
        digest.update(np.ascontiguousarray(lr).data)
    return digest.hexdigest()[:10]


# ---------------------------------------------------------------- operators


def _unit(dtype):
    """Return the step of 8 bits in an image's values."""
    return np.iinfo(dtype).max / 255


def to_pixels(x, dtype=np.uint8):
    """Return values rounded half up and clipped to the range of a dtype."""
    return np.clip(np.floor(x + 0.5), 0, np.iinfo(dtype).max).astype(dtype)


def jpeg(image, quality):
    """Return an image (H, W, 1 or 3), uint8, after JPEG compression."""
    image = image[:, :, 0] if image.shape[2] == 1 else image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    # without the search for the format, which takes longer than decoding a patch
    mode = "L" if image.ndim == 2 else "RGB"
    decoded = Image.frombytes(mode, image.shape[1::-1], file.getvalue(), "jpeg", mode, "")
    return np.asarray(decoded).reshape(*image.shape[:2], -1)


def random_jpeg(image, rng):
    """Return `jpeg` of a random quality, with its blocks at a random place."""
    down, right = rng.integers(8, size=2).tolist()
    rows = np.maximum(np.arange(-down, image.shape[0]), 0)
    columns = np.maximum(np.arange(-right, image.shape[1]), 0)
    low, high = JPEG_QUALITIES
    return jpeg(image[rows][:, columns], rng.integers(low, high + 1))[down:, right:]


def _jpeg_float(rng, x):
    return random_jpeg(to_pixels(x), rng).astype(np.float32)


def _draw_blur(scale, rng):
    """Draw an isotropic or anisotropic Gaussian: (function, radius in pixels)."""
    if rng.random() < 0.5:
        axes = [rng.uniform(0.1, 2 + 0.2 * scale) ** 2] * 2
    else:
        axes = rng.uniform(0.5, 4 + scale, 2)  # variances along and across its direction
    angle = rng.uniform(0, math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag(axes) @ turn.T
    return functools.partial(blur, covariance), math.ceil(3 * math.sqrt(max(axes)))


def blur(covariance, x):
    """Return x (H, W, C) float32 filtered by a Gaussian, with opposite borders joined."""
    height, width = (scipy.fft.next_fast_len(side, real=True) for side in x.shape[:2])
    fy = scipy.fft.fftfreq(height).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(width).astype(np.float32)
    (yy, yx), (_, xx) = (-2 * math.pi**2 * covariance).astype(np.float32)
    response = np.exp(yy * fy * fy + 2 * yx * fy * fx + xx * fx * fx)
    spectrum = scipy.fft.rfft2(x, (height, width), axes=(0, 1)) * response[:, :, None]
    return scipy.fft.irfft2(spectrum, (height, width), axes=(0, 1))[: x.shape[0], : x.shape[1]]


KERNELS = {
    "bicubic": (cubic, 2),
    "bilinear": (lambda x: np.maximum(1 - np.abs(x), 0), 1),
    "area": (lambda x: (np.abs(x) < 0.5).astype(float), 0.5),
}


@functools.lru_cache(maxsize=256)
def _downsampling_matrix(length, scale, kernel):
    """Return the sparse matrix (length / scale, length) of an antialiased filter."""
    function, _ = KERNELS[kernel]
    centers = (np.arange(length // scale)[:, None] + 0.5) * scale - 0.5
    weights = function((np.arange(length) - centers) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    return scipy.sparse.csr_array(weights.astype(np.float32))


def _draw_downsampling(scale, rng):
    kernel = list(KERNELS)[rng.integers(len(KERNELS))]

    def shrink(x):
        for _ in range(2):  # rows, then columns
            matrix = _downsampling_matrix(len(x), scale, kernel)
            small = matrix @ np.ascontiguousarray(x).reshape(len(x), -1)
            x = small.reshape(len(small), *x.shape[1:]).swapaxes(0, 1)
        return x

    return shrink, KERNELS[kernel][1]


def _draw_gaussian(rng):
    """Draw a function that gives the variance of Gaussian noise at pixels."""
    sigma = rng.uniform(*NOISE_SIGMAS)
    return lambda x: sigma**2


def _draw_poisson(rng):
    """Draw a function that gives the variance of Poisson noise: 100 to 10,000 photons at white."""
    photons = 10 ** rng.uniform(2, 4)
    return lambda x: np.maximum(x, 0) * np.float32(255 / photons)


def _add_noise(variance, rng, x):
    """Return x with noise, the same in all channels in 2 of 5 cases."""
    channels = 1 if rng.random() < 0.4 else x.shape[2]
    noise = rng.standard_normal((*x.shape[:2], channels), np.float32)
    level = x.mean(axis=2, keepdims=True) if channels == 1 else x
    return x + np.sqrt(variance(level), dtype=np.float32) * noise
