"""MATLAB's bicubic. The published LR images are not in the repository, so their pixels are pinned by checksums here."""

import hashlib

import numpy as np
import pytest
import skimage.data
import torch

from data.resize import downsample, imresize
from model import build_network
from option import parse_args


@pytest.mark.parametrize(
    ("scale", "digest"),
    # made by the version that gave all 57 LR images of Set5 and Set14 as MATLAB does, x2, x3, x4
    [
        (2, "aa58ea5728e49add"),
        (3, "f6c860a5bd510b65"),
        (4, "492f9a83d1fef238"),
        (8, "24c92e76cc49f33a"),
    ],
)
def test_downsampling_gives_the_pixels_that_were_checked_against_matlab(scale, digest):
    small = downsample(skimage.data.astronaut()[3:251, 100:400], scale)
    assert hashlib.sha256(small.tobytes()).hexdigest()[:16] == digest


def matrix_of(length, scale):
    """The same resampling as a dense matrix, written from the formula pixel by pixel."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0

    new, shrink = int(np.ceil(length * scale)), min(1, scale)
    matrix = np.zeros((new, length))
    for row in range(new):
        centre = (row + 0.5) / scale - 0.5
        for tap in range(int(centre - 3 / shrink) - 1, int(centre + 3 / shrink) + 2):
            matrix[row, min(max(tap, 0), length - 1)] += kernel((centre - tap) * shrink)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 4])
def test_agrees_with_a_dense_matrix(scale):
    image = skimage.data.camera()[:37, :50]
    rows = np.floor(matrix_of(37, scale) @ image + 0.5).clip(0, 255)
    want = np.floor(rows @ matrix_of(50, scale).T + 0.5).clip(0, 255)
    # 1: a tie that rounds the other way
    assert np.abs(imresize(image, scale).astype(int) - want).max() <= 1
    assert (imresize(image, scale) == want).mean() > 0.999


@pytest.mark.parametrize("rgb_range", [1, 255])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bicubic_network_is_imresize(scale, rgb_range):
    flags = f"--cpu --model Bicubic --scale 8+{scale} --rgb_range {rgb_range}"
    image = skimage.data.coffee()[:21, :34]
    lr = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() * (rgb_range / 255)
    sr = build_network(parse_args(flags.split()))(lr, scale)[0] * (255 / rgb_range)
    assert np.abs(sr.permute(1, 2, 0).numpy() - imresize(image, scale)).max() < 1e-3


def test_sixteen_bits_stay_sixteen():
    image = skimage.data.camera()[:32, :32]
    small = imresize(image.astype(np.uint16) * 257, 1 / 2)
    assert small.dtype == np.uint16
    assert np.abs(small / 257 - imresize(image, 1 / 2)).max() < 1


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((4,), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(ValueError, match="imresize takes"):
        imresize(bad, 2)
