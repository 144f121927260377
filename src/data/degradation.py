"""Degradations that make LR images from HR: a new one is a class and a line in `DEGRADATIONS`.

Training, tests, the cache and scripts/prepare_data.py use them alike.
"""

import functools
import hashlib
import io
import math
import pkgutil
import unicodedata
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.lib.stride_tricks import as_strided
from PIL import Image

from data.resize import cubic, downsample, weigh_rows
from runtime.files import UserError

NOISE_SIGMAS = (1.0, 25.0)  # in 8-bit steps
JPEG_QUALITIES = (30, 95)
TEST_SEED = 1  # of tests, whatever --seed is: runs of several seeds are tested on the same images


class Degradation:
    """A rule that makes LR images; derived classes define `__call__`."""

    scales = ()  # for which it is defined; empty: all
    per_sample = False  # draw anew for each training patch; else LR is made once from whole images
    margin = 4  # with per_sample: LR pixels around a patch, cut off since a border would differ

    def __call__(self, hr, scale, rng):
        """Return the LR image (H/scale, W/scale, C) of hr (H, W, C), uint8 or uint16.

        H and W are multiples of the scale; rng is the numpy Generator of this image or patch.
        """
        raise NotImplementedError

    def plan(self, scale, rng):
        """Return (margin, function hr -> lr) of one patch or image."""
        return self.margin * self.per_sample, lambda hr: self(hr, scale, rng)


class BI(Degradation):
    """Bicubic downsampling of MATLAB."""

    def __call__(self, hr, scale, rng):
        return downsample(hr, scale)


class BD(Degradation):
    """Gaussian blur, then every scale-th pixel (RDN, Zhang et al., CVPR 2018, and its script).

    The kernel is 7x7 at x3; at even scales its size is even, centered between pixels as the pixels
    of LR are. Borders are replicated, and the result is rounded half up.
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
        lr, sigma = downsample(hr, scale), self.sigma * (np.iinfo(hr.dtype).max / 255)
        return to_pixels(lr + rng.normal(0, sigma, lr.shape), hr.dtype)


class Real(Degradation):
    """Blur, downsampling, noise and JPEG in random order, then JPEG, for photographs.

    The shuffled chain of BSRGAN (Zhang et al., ICCV 2021, section 3) and its limits, without the
    camera's processing. Kernels are Gaussians without truncation, of HR pixels also after the
    downsampling. Poisson noise is its normal approximation. LR has 8 bits.
    """

    per_sample = True

    def plan(self, scale, rng):
        """Draw the steps and their blurs, whose reach is the margin; the rest when applied."""
        steps = [_downsample, _blur]
        for step, probability in ((_blur, 0.5), (_add_gaussian, 0.75), (_add_poisson, 0.25)):
            steps += [step] * (rng.random() < probability)
        steps += [_recompress] * (rng.random() < 0.5)
        steps = [steps[i] for i in rng.permutation(len(steps))]
        blurs = [_draw_covariance(scale, rng) for step in steps if step is _blur]
        radius = 3 * math.sqrt(sum(blurs).diagonal().max())

        def apply(hr):
            x = hr * np.float32(255 / np.iinfo(hr.dtype).max)
            coming, zoom = iter(blurs), 1
            for step in steps:
                if step is _blur:
                    x = _blur(x, next(coming) / zoom**2)
                elif step is _downsample:
                    x, zoom = _downsample(x, scale, rng), scale
                else:
                    x = step(x, rng).astype(np.float32, copy=False)
            return _recompress(x, rng)

        return math.ceil(radius / scale) + 1, apply


# name for --degradation: its class, which may be in a module of its own
DEGRADATIONS = {
    "BI": "data.degradation.BI",
    "BD": "data.degradation.BD",
    "DN": "data.degradation.DN",
    "real": "data.degradation.Real",
}


@functools.cache
def degradation_of(name):
    """Return the degradation of a name."""
    return pkgutil.resolve_name(DEGRADATIONS[name])()


def image_generator(seed, name):
    """Return the generator of a whole image, for the seed and its name without ending."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogateescape"))
    return np.random.default_rng([seed, *np.frombuffer(digest.digest()[:16], "<u4").tolist()])


def image_lr(hr, path, degradation, scale, seed):
    """Return the LR image of a whole image."""
    return make_lr(degradation, hr, scale, image_generator(seed, Path(path).stem))


def sample_generator(seed, epoch, index):
    """Return the generator of a training sample; those of patches.py have 0 to 2 in place of 3."""
    return np.random.default_rng([seed, epoch, index, 3])


def make_lr(degradation, hr, scale, rng, window=None):
    """Return LR (h, w, C) of an HR image (H, W, C), uint8 or uint16.

    With per_sample, `window` (top, left, height, width) is a part of LR, and HR is mirrored.
    """
    size = [side // scale for side in hr.shape[:2]]
    if not all(size):
        raise UserError(f"{hr.shape[1]}x{hr.shape[0]} pixels are too few for scale {scale}")
    top, left, height, width = window or (0, 0, *size)
    margin, apply = degradation.plan(scale, rng)
    for axis, (first, length) in enumerate(((top, height), (left, width))):
        start, end = (first - margin) * scale, (first + length + margin) * scale
        if start >= 0 and end <= size[axis] * scale:
            hr = hr[start:end] if axis == 0 else hr[:, start:end]
        else:
            period = 2 * size[axis] * scale  # of the image and its mirror image
            indices = np.arange(start, end) % period
            hr = hr.take(np.minimum(indices, period - 1 - indices), axis)
    lr, size = apply(hr), (hr.shape[0] // scale, hr.shape[1] // scale, hr.shape[2])
    if lr.shape != size or lr.dtype not in (np.uint8, hr.dtype):
        name = f"--degradation {type(degradation).__name__}"
        found = f"{hr.dtype} or uint8, see `to_pixels`, not {lr.shape} of {lr.dtype}"
        raise UserError(f"{name} must make {size} of {found}")
    return lr[margin : margin + height, margin : margin + width]


@functools.cache
def fingerprint(name, scale, seed):
    """Return 10 hexadecimal digits that change with the code of a degradation: a cache's name."""
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        hr = rng.integers(0, np.iinfo(dtype).max, (13 * scale, 11 * scale, 3), dtype)
        lr = make_lr(degradation_of(name), hr, scale, image_generator(seed, "fingerprint"))
        digest.update(np.ascontiguousarray(lr).data)
    return digest.hexdigest()[:10]


def to_pixels(x, dtype=np.uint8):
    """Return values rounded half up and clipped to the range of a dtype."""
    return np.clip(x + 0.5, 0, np.iinfo(dtype).max).astype(dtype)


def jpeg(image, quality):
    """Return an image (H, W, 1 or 3), uint8, after JPEG compression."""
    image = image[:, :, 0] if image.shape[2] == 1 else image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    # without the search for the format, which takes longer than decoding a patch
    mode = "L" if image.ndim == 2 else "RGB"
    decoded = Image.frombytes(mode, image.shape[1::-1], file.getvalue(), "jpeg", mode, "")
    return np.asarray(decoded).reshape(*image.shape[:2], -1)


def _recompress(x, rng):
    """Return x as uint8 after `jpeg` of a random quality, with its blocks at a random place."""
    image = to_pixels(x)
    down, right = rng.integers(8, size=2).tolist()
    low, high = JPEG_QUALITIES
    for axis, shift in enumerate((down, right)):
        image = image.take(np.arange(-shift, image.shape[axis]), axis, mode="clip")
    return jpeg(image, rng.integers(low, high + 1))[down:, right:]


def _draw_covariance(scale, rng):
    """Draw the covariance (2, 2) of an isotropic or anisotropic Gaussian, in HR pixels."""
    if rng.random() < 0.5:
        return np.eye(2) * rng.uniform(0.1, 2 + 0.2 * scale) ** 2
    along, across = rng.uniform(0.5, 4 + scale, 2)  # variances
    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    mixed = (along - across) * cos * sin
    yy, xx = along * sin**2 + across * cos**2, along * cos**2 + across * sin**2
    return np.array([[yy, mixed], [mixed, xx]])


def _blur(x, covariance):
    """Return x (H, W, C) float32 filtered by a Gaussian, with opposite borders joined."""
    height, width = (scipy.fft.next_fast_len(side, real=True) for side in x.shape[:2])
    fy = scipy.fft.fftfreq(height).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(width).astype(np.float32)
    (yy, yx), (_, xx) = (-2 * math.pi**2 * covariance).astype(np.float32)
    response = np.exp(yy * fy * fy + 2 * yx * fy * fx + xx * fx * fx)
    spectrum = scipy.fft.rfft2(x, (height, width), axes=(0, 1), overwrite_x=True)
    spectrum *= response[:, :, None]
    blurred = scipy.fft.irfft2(spectrum, (height, width), axes=(0, 1), overwrite_x=True)
    return blurred[: x.shape[0], : x.shape[1]]


KERNELS = (
    cubic,
    lambda x: np.maximum(1 - np.abs(x), 0),  # bilinear
    lambda x: (np.abs(x) < 0.5).astype(float),  # area
)


@functools.lru_cache(maxsize=256)
def _downsampling_matrix(length, scale, kernel_idx):
    """Return the sparse matrix (length / scale, length) of an antialiased filter."""
    centers = (np.arange(length // scale)[:, None] + 0.5) * scale - 0.5
    weights = KERNELS[kernel_idx]((np.arange(length) - centers) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    return scipy.sparse.csr_array(weights.astype(np.float32))


def _downsample(x, scale, rng):
    """Return x (H, W, C) downsampled by a random one of KERNELS."""
    kernel_idx = int(rng.integers(len(KERNELS)))
    for _ in range(2):  # rows, then columns
        matrix = _downsampling_matrix(len(x), scale, kernel_idx)
        small = matrix @ np.ascontiguousarray(x).reshape(len(x), -1)
        x = small.reshape(len(small), *x.shape[1:]).swapaxes(0, 1)
    return x


_noise_table = functools.cache(lambda: np.random.default_rng(0).standard_normal(2**20, np.float32))


def _noise(shape, rng):
    """Return Gaussian noise: rows start at random places of a table, 20x faster than draws."""
    table, length = _noise_table(), shape[1] * shape[2]
    rows = as_strided(table, (len(table) - length, length), (4, 4))  # overlapping
    return rows[rng.integers(len(rows), size=shape[0])].reshape(shape)


def _add_gaussian(x, rng):
    """Return x with Gaussian noise, gray in 2 of 5 cases."""
    channels = 1 if rng.random() < 0.4 else x.shape[2]
    return x + np.float32(rng.uniform(*NOISE_SIGMAS)) * _noise((*x.shape[:2], channels), rng)


def _add_poisson(x, rng):
    """Return x with the noise of 100 to 10,000 photons at white, gray in 2 of 5 cases."""
    level = x.mean(axis=2, keepdims=True) if rng.random() < 0.4 else x
    variance = np.maximum(level, 0) * np.float32(255 / 10 ** rng.uniform(2, 4))
    return x + np.sqrt(variance) * _noise(level.shape, rng)
