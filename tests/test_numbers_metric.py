"""PSNR and SSIM against scikit-image."""

import math
import types

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from image_quality import load_metrics, score
from loss_formulas import naive_haar, random_images
from metric import calc_psnr, calc_ssim, float64_device


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


def test_equal_images_have_no_finite_psnr():
    image = noise(3, 40, 40).round()
    assert calc_psnr(image + 0.4, image, 2, 255) == math.inf, "SR is rounded"


@pytest.mark.parametrize("function", [calc_psnr, calc_ssim])
def test_different_shapes_are_an_error(function):
    for shape in ((3, 40, 41), (3, 39, 40), (1, 40, 40), (2, 3, 40, 40)):
        with pytest.raises(ValueError, match="same shape"):
            function(noise(3, 40, 40), noise(*shape), 2, 255)
    for shape in ((3, 8, 8), (3, 40, 8), (3, 8, 40)):
        with pytest.raises(ValueError, match="nothing left"):
            function(noise(*shape), noise(*shape), 4, 255)
    for shape in ((40, 40), (4, 40, 40), (2, 3, 40, 40)):
        with pytest.raises(ValueError, match="with C 1 or 3"):
            function(noise(*shape), noise(*shape), 4, 255)


def test_float64_is_computed_on_the_cpu_for_macs():
    for device, wanted in (("mps", "cpu"), ("cuda", "cuda"), ("cpu", "cpu")):
        tensor = types.SimpleNamespace(device=torch.device(device))
        assert float64_device(tensor) == torch.device(wanted)


def test_arguments_are_not_changed():
    sr, hr = noise(3, 40, 40), noise(3, 40, 40, seed=1)
    before = sr.clone(), hr.clone()
    calc_psnr(sr, hr, 2, 255), calc_ssim(sr, hr, 2, 255)
    assert torch.equal(sr, before[0])
    assert torch.equal(hr, before[1])


def pair_of_images():
    """Return a smooth 8-bit HR image (3, 61, 67) in [0, 255], and SR with steps between them."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:61, :67]
    waves = [np.sin(x / (3 + c)) * 60 + np.cos(y / (4 + c)) * 50 + 120 + 10 * c for c in range(3)]
    hr = np.rint(np.stack(waves) + rng.normal(0, 4, (3, 61, 67))).clip(0, 255)
    sr = (hr + rng.normal(0, 30, hr.shape)).astype(np.float32)
    assert sr.min() < 0, "SR must leave the range: it is to be clamped"
    assert sr.max() > 255
    return torch.from_numpy(sr), torch.from_numpy(hr).float()


def check_scores(sr, hr, scale, rgb_range, benchmark):
    """Check PSNR and SSIM of images (C, H, W) in [0, 255] against scikit-image; return the images in the range."""
    a, b = (x.permute(1, 2, 0).double().numpy() for x in (sr.round().clamp(0, 255), hr))
    if benchmark and len(hr) == 3:  # ITU-R BT.601, 8 bits: Y of black is 16, of white 235
        weights = np.array([65.481, 128.553, 24.966]) / 255
        a, b = (16 + (image @ weights)[..., None] for image in (a, b))
    border = scale if benchmark else scale + 6
    a, b = (image[border:-border, border:-border] for image in (a, b))
    psnr = peak_signal_noise_ratio(b, a, data_range=255)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(a, b, data_range=255, channel_axis=2, **window)
    images = [image * (rgb_range / 255) for image in (sr, hr)]
    # HR in [0, 1] is float32: the last digits of an 8-bit value are lost
    tolerance = 1e-9 if rgb_range == 255 else 1e-5
    assert calc_psnr(*images, scale, rgb_range, benchmark) == pytest.approx(psnr, abs=tolerance)
    assert calc_ssim(*images, scale, rgb_range, benchmark) == pytest.approx(ssim, abs=tolerance)
    return images


@pytest.mark.parametrize("benchmark", [True, False])
@pytest.mark.parametrize(
    "shape", [(3, 128, 97), (3, 69, 40), (1, 45, 200), (3, 31, 31), (3, 62, 94), (1, 52, 84)]
)
def test_both_are_those_of_scikit_image(shape, benchmark):
    hr = noise(*shape).round()
    check_scores(hr + 60 * (noise(*shape, seed=1) / 255 - 0.5), hr, 4, 255, benchmark)


@pytest.mark.parametrize("rgb_range", [1, 255])
@pytest.mark.parametrize("benchmark", [True, False], ids=["benchmark", "DIV2K"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_both_at_every_scale_and_range(scale, benchmark, rgb_range):
    tensors = check_scores(*pair_of_images(), scale, rgb_range, benchmark)
    batch = [tensor[None] for tensor in tensors]
    flags = (scale, rgb_range, benchmark)
    for function in (calc_psnr, calc_ssim):
        assert function(*batch, *flags) == function(*tensors, *flags)
        if benchmark:  # the default
            assert function(*tensors, scale, rgb_range) == function(*tensors, *flags)


def test_psnr_needs_one_pixel_inside_the_border_and_ssim_eleven():
    sr, hr = pair_of_images()
    for size, is_number in ((14, False), (15, True)):  # 10 and 11 pixels inside a border of 2
        value = calc_ssim(sr[:, :size], hr[:, :size], 2, 255)
        assert math.isfinite(value) == is_number
    assert math.isfinite(calc_psnr(sr[:, :9, :9], hr[:, :9, :9], 4, 255))


def test_the_share_of_haar_energy():
    sr, hr = (random_images(seed, batch=1, side=12) for seed in (1, 2))
    sr_energy, hr_energy = (np.square(naive_haar(x.numpy())).sum() for x in (sr, hr))
    (metric,) = load_metrics(["haar"])
    value = score(metric, sr[0], hr[0], "image")
    assert value == pytest.approx(sr_energy / hr_energy, rel=1e-5)
    assert score(metric, hr[0, :, :, :11], hr[0, :, :, :11], "odd") == pytest.approx(1)
    assert score(metric, hr[0] * 0.5, hr[0], "half") == pytest.approx(0.25)
