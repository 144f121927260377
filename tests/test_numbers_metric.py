"""PSNR and SSIM against their formulas, written out with NumPy and SciPy, and scikit-image."""

import math
import types

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
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
    with pytest.raises(ValueError, match="same shape"):
        function(noise(3, 40, 40), noise(3, 40, 41), 2, 255)
    for shape in ((3, 8, 8), (3, 40, 8), (3, 8, 40)):
        with pytest.raises(ValueError, match="nothing left"):
            function(noise(*shape), noise(*shape), 4, 255)
    for shape in ((40, 40), (4, 40, 40), (2, 3, 40, 40)):
        with pytest.raises(ValueError, match="with C 1 or 3"):
            function(noise(*shape), noise(*shape), 4, 255)


def reference(sr, hr, border, benchmark):
    """Return PSNR and SSIM by scikit-image, of images (C, H, W) in [0, 255]."""
    sr, hr = (x.permute(1, 2, 0).double().numpy() for x in (sr.round().clamp(0, 255), hr))
    if benchmark and sr.shape[2] == 3:
        weights = np.array([65.481, 128.553, 24.966]) / 255
        sr, hr = (16 + (image @ weights)[..., None] for image in (sr, hr))
    sr, hr = (image[border:-border, border:-border] for image in (sr, hr))
    psnr = peak_signal_noise_ratio(hr, sr, data_range=255)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return psnr, structural_similarity(sr, hr, data_range=255, channel_axis=2, **window)


@pytest.mark.parametrize("benchmark", [True, False])
@pytest.mark.parametrize(
    "shape", [(3, 128, 97), (3, 69, 40), (1, 45, 200), (3, 31, 31), (3, 62, 94), (1, 52, 84)]
)
def test_both_are_those_of_scikit_image(shape, benchmark):
    hr = noise(*shape).round()
    sr = hr + 60 * (noise(*shape, seed=1) / 255 - 0.5)
    border = 4 if benchmark else 10
    psnr, ssim = reference(sr, hr, border, benchmark)
    assert calc_psnr(sr, hr, 4, 255, benchmark) == pytest.approx(psnr, abs=1e-9)
    assert calc_ssim(sr, hr, 4, 255, benchmark) == pytest.approx(ssim, abs=1e-9)


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
    return sr, hr


def what_is_compared(sr, hr, scale, benchmark):
    """Return what is compared, float64 (channels, H, W), cut at the border."""
    sr = np.rint(sr.astype(np.float64)).clip(0, 255)
    border = scale if benchmark else scale + 6
    images = []
    for red, green, blue in (sr, hr):
        if benchmark:  # ITU-R BT.601, 8 bits: Y of black is 16, of white 235
            images.append([16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255])
        else:
            images.append([red, green, blue])
    return [np.array(image)[:, border:-border, border:-border] for image in images]


def gaussian_mean(image):
    """Return the mean in a window of 11x11 pixels, a Gaussian of sigma 1.5, where it fits."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    return correlate1d(correlate1d(image, window, 0), window, 1)[5:-5, 5:-5]


def ssim_of_channel(a, b):
    """Return equation 13 of Wang et al., IEEE TIP 2004, averaged over the image."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = gaussian_mean(a), gaussian_mean(b)
    variance_a = gaussian_mean(a * a) - mean_a**2
    variance_b = gaussian_mean(b * b) - mean_b**2
    covariance = gaussian_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return np.mean(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2))


@pytest.mark.parametrize("rgb_range", [1, 255])
@pytest.mark.parametrize("benchmark", [True, False], ids=["benchmark", "DIV2K"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_scores_are_those_of_their_formulas(scale, benchmark, rgb_range):
    sr, hr = pair_of_images()
    a, b = what_is_compared(sr, hr, scale, benchmark)
    psnr = 10 * math.log10(255**2 / np.mean((a - b) ** 2))
    ssim = np.mean([ssim_of_channel(*channels) for channels in zip(a, b, strict=True)])
    tensors = [torch.from_numpy(image).float() * (rgb_range / 255) for image in (sr, hr)]
    flags = (scale, rgb_range, benchmark)
    # HR in [0, 1] is float32: the last digits of an 8-bit value are lost
    tolerance = 1e-9 if rgb_range == 255 else 1e-5
    assert calc_psnr(*tensors, *flags) == pytest.approx(psnr, abs=tolerance)
    assert calc_ssim(*tensors, *flags) == pytest.approx(ssim, abs=tolerance)
    batch = [tensor[None] for tensor in tensors]
    for function in (calc_psnr, calc_ssim):
        assert function(*batch, *flags) == function(*tensors, *flags)
        if benchmark:  # the default
            assert function(*tensors, scale, rgb_range) == function(*tensors, *flags)


def test_psnr_needs_one_pixel_inside_the_border_and_ssim_eleven():
    sr, hr = (torch.from_numpy(image).float() for image in pair_of_images())
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
