"""PSNR and SSIM: conventions that tables of the field rest on."""

import math
import types

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metric import calc_psnr, calc_ssim, float64_device


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


def test_psnr_of_a_constant_error_in_luma():
    hr = torch.full((3, 40, 40), 100.0)
    # a grey step of 10 is a luma step of 10 * 219 / 255
    assert calc_psnr(hr + 10, hr, 2, 255) == pytest.approx(
        20 * math.log10(255 / (10 * 219 / 255)), abs=1e-9
    )
    assert calc_psnr(hr + 10, hr, 2, 255, benchmark=False) == pytest.approx(
        20 * math.log10(255 / 10), abs=1e-9
    )


@pytest.mark.parametrize(("benchmark", "border"), [(True, 4), (False, 10)])
def test_the_border_does_not_count(benchmark, border):
    hr = noise(3, 48, 40).round()
    sr = hr.clone()
    sr[:, :border] = 0
    sr[:, :, -border:] = 0
    assert calc_psnr(sr, hr, 4, 255, benchmark) == math.inf
    sr[:, border, border] += 20
    assert calc_psnr(sr, hr, 4, 255, benchmark) < 60


def test_sr_is_rounded_and_clamped_to_eight_bits():
    hr = noise(3, 40, 40).round()
    assert calc_psnr(hr + 0.4, hr, 2, 255) == math.inf
    white = torch.full((3, 40, 40), 255.0)
    assert calc_psnr(white + 90, white, 2, 255) == math.inf


def test_the_range_changes_nothing():
    sr, hr = noise(3, 40, 40), noise(3, 40, 40, seed=1).round()
    assert calc_psnr(sr / 255, hr / 255, 3, 1) == pytest.approx(calc_psnr(sr, hr, 3, 255), abs=1e-6)
    assert calc_ssim(sr / 255, hr / 255, 3, 1) == pytest.approx(calc_ssim(sr, hr, 3, 255), abs=1e-6)


def test_luma_alone_is_what_rgb_gives():
    rgb, other = noise(3, 40, 40).round(), noise(3, 40, 40, seed=1).round()
    weights = torch.tensor([65.481, 128.553, 24.966]) / 255
    luma = torch.einsum("chw,c->hw", rgb, weights)[None] + 16
    other_luma = torch.einsum("chw,c->hw", other, weights)[None] + 16
    # luma is rounded to 8 bits, RGB was before
    assert calc_psnr(luma, other_luma, 2, 255) == pytest.approx(
        calc_psnr(rgb, other, 2, 255), abs=0.02
    )


def test_ssim_of_flat_images_is_its_luminance_term():
    a, b = torch.full((3, 40, 40), 100.0), torch.full((3, 40, 40), 40.0)
    c1 = (0.01 * 255) ** 2
    want = (2 * 100 * 40 + c1) / (100**2 + 40**2 + c1)
    assert calc_ssim(a, b, 2, 255, benchmark=False) == pytest.approx(want, abs=1e-12)
    assert calc_ssim(a, a, 2, 255, benchmark=False) == pytest.approx(1, abs=1e-12)


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


def test_one_pixel_inside_the_border_is_enough():
    assert math.isfinite(calc_psnr(noise(3, 9, 9), noise(3, 9, 9, seed=1), 4, 255))


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


def test_ssim_needs_a_whole_window():
    image = noise(3, 18, 40).round()
    assert math.isnan(calc_ssim(image, image, 4, 255))
    image = noise(3, 19, 40).round()
    assert calc_ssim(image, image, 4, 255) == pytest.approx(1)


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
