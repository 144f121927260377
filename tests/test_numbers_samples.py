"""Positives and negatives of PCL-SR against formulas that are written out here."""

import math

import numpy as np
import pytest
import torch

from loss import samples
from loss.samples import (
    SampleMaker,
    degrade,
    gaussian_blur,
    quantize,
    require_other_images,
    select,
    sharpen,
)
from loss_formulas import flags, images_of_a_step, random_images
from runtime.files import UserError


def naive_blur(x, sizes, sigmas):
    """Blur a (H, W) array pixel by pixel with reflected borders."""
    (size_y, size_x), (sigma_y, sigma_x) = sizes, sigmas
    padded = np.pad(x, ((size_y // 2,) * 2, (size_x // 2,) * 2), mode="reflect")
    rows = [math.exp(-((i - size_y // 2) ** 2) / (2 * sigma_y**2)) for i in range(size_y)]
    columns = [math.exp(-((i - size_x // 2) ** 2) / (2 * sigma_x**2)) for i in range(size_x)]
    kernel = np.outer(rows, columns)
    kernel /= kernel.sum()
    out = np.zeros_like(x)
    for i, j in np.ndindex(x.shape):
        out[i, j] = (kernel * padded[i : i + size_y, j : j + size_x]).sum()
    return out


@pytest.mark.parametrize(("sizes", "sigmas"), [((3, 5), (0.7, 1.9)), ((7, 3), (2.0, 0.4))])
def test_blur_is_its_formula_with_reflected_borders(sizes, sigmas):
    x = random_images(5, side=12).double()[:, :, :9]
    got = gaussian_blur(x, sizes, sigmas, 255)
    for image, blurred in zip(x.flatten(0, 1), got.flatten(0, 1), strict=True):
        want = naive_blur(image.numpy(), sizes, sigmas)
        np.testing.assert_allclose(blurred.numpy(), want, rtol=1e-9)


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_blur_is_clamped_to_the_range(rgb_range):
    for value, want in ((-0.5, 0.0), (0.25, 0.25), (1.5, 1.0)):
        x = torch.full((1, 3, 8, 8), value * rgb_range)
        got = gaussian_blur(x, (3, 3), (1.0, 1.0), rgb_range)
        assert torch.allclose(got, torch.full_like(x, want * rgb_range)), value


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_sharpening_is_its_formula_clamped_and_with_borders_kept(rgb_range):
    x = random_images(6, batch=2, side=8, rgb_range=rgb_range).double()
    factors = torch.tensor([1.7, 6.0], dtype=torch.float64)
    want = x.clone()
    clamped = 0
    for n, c, i, j in np.ndindex(x.shape):
        if 0 < i < 7 and 0 < j < 7:
            smooth = (x[n, c, i - 1 : i + 2, j - 1 : j + 2].sum() + 4 * x[n, c, i, j]) / 13
            value = float(smooth + factors[n] * (x[n, c, i, j] - smooth))
            clamped += not 0 <= value <= rgb_range
            want[n, c, i, j] = min(max(value, 0.0), rgb_range)
    got = sharpen(x, factors, rgb_range)
    assert clamped > 10, "the test must reach both ends of the range"
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-9 * rgb_range)


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_quantization_rounds_to_eight_bit_steps_and_clamps(rgb_range):
    steps = torch.tensor([-3.0, -0.4, 0.4, 0.6, 41.49, 41.51, 254.6, 255.4, 300.0]).double()
    got = quantize(steps * rgb_range / 255, rgb_range) * 255 / rgb_range
    np.testing.assert_allclose(got.numpy(), [0, 0, 0, 1, 41, 42, 255, 255, 255], atol=1e-9)


def test_the_sharpened_positive_uses_the_factors_of_the_flags():
    _, hr, lr = images_of_a_step()
    sharp = "--loss CL-patchD --use_aug --sharp_hr"
    fixed = flags(f"{sharp} --mcl_neg 2 --sharp_value 2.5 --sharp_range 0")
    positives, negatives = SampleMaker(fixed)(hr, lr)
    want = sharpen(hr, torch.tensor([2.5, 2.5]), 255).round()
    assert len(positives) == 3
    assert len(negatives) == 1
    assert torch.equal(positives[0], hr)
    for positive in positives[1:]:
        assert torch.allclose(positive, want, atol=1)
        assert (positive != want).float().mean() < 1e-3  # a rounding of a half may differ
    drawn = flags(f"{sharp} --mcl_neg 40 --sharp_value 0.5 --sharp_range 2")
    torch.manual_seed(0)
    factors = torch.cat([_factor(hr, sample) for sample in SampleMaker(drawn)(hr, lr)[0][1:]])
    assert 0.45 < factors.min() < 0.8
    assert 2.2 < factors.max() < 2.55
    unlike = (factors[::2] - factors[1::2]).abs() > 0.1  # the two images of each sample
    assert unlike.sum() > 20, "each image has a factor of its own"


def _factor(hr, sharpened):
    """Estimate the factor of sharpening of each image from pixels that no clamping reaches."""
    smooth = sharpen(hr, torch.zeros(len(hr)), 255)
    detail, moved = hr - smooth, sharpened - smooth
    inside = (sharpened > 1) & (sharpened < 254)
    inside[:, :, [0, -1]] = inside[..., [0, -1]] = False
    return (detail * moved * inside).sum((1, 2, 3)) / (detail**2 * inside).sum((1, 2, 3))


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_the_noisy_positive_has_the_deviation_of_the_flag(rgb_range):
    hr, lr = (torch.full((2, 3, side, side), 128 * rgb_range / 255) for side in (64, 32))
    more = f"--rgb_range {rgb_range} --use_noise_pos --pos_noise_value 9"
    args = flags(f"--loss CL-patchD --use_aug --mcl_neg 1 {more}")
    noisy = SampleMaker(args)(hr, lr)[0][1] * 255 / rgb_range
    for image in noisy:
        assert float(image.mean()) == pytest.approx(128, abs=0.5)
        assert float(image.std()) == pytest.approx(9, rel=0.05)
    assert not torch.equal(noisy[0], noisy[1])


def test_blurred_negatives_draw_size_and_sigma_for_each_axis():
    hr = torch.zeros(2, 3, 25, 25)
    hr[:, :, 12, 12] = 255.0  # the blurred image shows the kernel
    args = flags("--loss CL-patchD --use_aug --mcl_neg 150 --random_neg --only_blur")
    torch.manual_seed(0)
    negatives = SampleMaker(args)(hr, torch.zeros(2, 3, 12, 12))[1][1:]
    assert len(negatives) == 150
    extents, peaks, cut_on_one_axis = [], [], 0
    for negative in negatives:
        assert torch.equal(negative[0], negative[1]), "one draw for the whole set"
        lit = negative[0, 0] > 0
        extents.append((int(lit.any(1).sum()), int(lit.any(0).sum())))
        peaks.append(float(negative.max()))
        beside = negative[0, 0, 11, 12], negative[0, 0, 12, 11]  # of the center along y, x
        for i, value in enumerate(beside):  # three pixels of a wide Gaussian: the size is 3
            wide = extents[-1][i] == 3 and value > 0.6 * negative.max()
            cut_on_one_axis += bool(wide) and extents[-1][1 - i] >= 7
        assert torch.equal(negative, negative.flip(2, 3)), "the kernel is not symmetric"
        assert float(negative[0, 0].sum()) == pytest.approx(255, abs=40), "kernel must sum to 1"
    heights, widths = zip(*extents, strict=True)
    assert max(heights) == max(widths) == 11
    assert min(heights) == min(widths) == 1
    assert sum(h != w for h, w in extents) > 50
    assert cut_on_one_axis > 3, "each axis has a size of its own"
    assert max(peaks) == 255  # sigma near 0.1
    assert 9 <= min(peaks) <= 14  # sigma near 2 on both axes: 255 / (2 pi 4) = 10


def test_the_full_degradation_has_noise_and_the_size_of_hr():
    hr = torch.full((2, 3, 48, 48), 100.0)
    args = flags("--loss CL-patchD --use_aug --mcl_neg 30 --random_neg")
    torch.manual_seed(0)
    negatives = SampleMaker(args)(hr, torch.full((2, 3, 24, 24), 100.0))[1][1:]
    deviations = torch.tensor([float(negative.std()) for negative in negatives])
    assert all(negative.shape == hr.shape for negative in negatives)
    assert all(abs(float(negative.mean()) - 100) < 4 for negative in negatives)
    assert deviations.min() < 5 < 10 < deviations.max() < 30


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_a_degraded_image_has_the_size_of_lr_and_stays_in_the_range(rgb_range):
    torch.manual_seed(0)
    hr = torch.zeros(2, 3, 36, 48)
    hr[:, :, :, 24:] = rgb_range  # a black and a white half
    for scale in (2, 3):
        small = degrade(hr, scale, lambda x: x, rgb_range)
        assert small.shape == (2, 3, 36 // scale, 48 // scale)
        assert 0 <= small.min() <= small.max() <= rgb_range
        left, right = small.split(24 // scale, dim=3)
        assert left.mean() < 0.1 * rgb_range
        assert right.mean() > 0.9 * rgb_range


def test_chosen_samples_are_those_of_the_flags():
    assert select(["hr", "a", "b", "c"], only_aug=True, ids=None) == ["a", "b", "c"]
    _, hr, lr = images_of_a_step()
    sharp = "--use_aug --mcl_neg 2 --sharp_hr --sharp_value 3 --sharp_range 0"
    args = flags(f"--loss CL-patchD {sharp} --pos_id 2,0")
    positives = select(SampleMaker(args)(hr, lr)[0], args.only_aug, args.pos_id)
    assert len(positives) == 2
    assert torch.equal(positives[1], hr)
    assert not torch.equal(positives[0], hr)


def test_a_degraded_image_is_filtered_before_it_is_made_smaller(monkeypatch):
    monkeypatch.setattr(samples, "NOISE_SIGMAS", (0.0, 0.0))
    monkeypatch.setattr(samples, "JPEG_QUALITIES", (100, 100))
    stripes = 60.0 + 120 * (torch.arange(48) % 3 == 0).float().expand(1, 1, 48, 48)
    small = degrade(stripes, 4, lambda x: x, 255)[..., 2:-2, 2:-2]
    assert (small - 100).abs().max() < 12  # the mean of 180, 60, 60


def test_jpeg_qualities_are_drawn_for_each_image(monkeypatch):
    compressed, qualities = samples.jpeg, []

    def note(image, quality):
        qualities.append(quality)
        return compressed(image, quality)

    monkeypatch.setattr(samples, "jpeg", note)
    torch.manual_seed(0)
    degrade(random_images(4, batch=200, side=8), 2, lambda x: x, 255)
    assert len(qualities) == 200
    assert 30 <= min(qualities) < 34
    assert 91 <= max(qualities) < 95


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--only_aug --use_aug --mcl_neg 1 --random_neg", "samples: the loss has no positives"),
        ("--only_aug --use_aug --mcl_neg 1 --sharp_hr", "samples: the loss has no negatives"),
        ("--random_neg --mcl_neg 3 --neg_id 1", "--neg_id 1 must be below 1"),  # no --use_aug
        ("--use_aug --sharp_hr --mcl_neg 3 --pos_id 0,4", "--pos_id 0,4 must be below 4"),
    ],
)
def test_flags_that_leave_no_samples_are_named(more, message):
    with pytest.raises(UserError, match=f"{message}$|{message},"):
        SampleMaker(flags(f"--loss CL-patchD {more}"))


def test_shuffled_negatives_need_two_images_in_each_part():
    require_other_images(flags("--shuffle_neg --batch_size 6 --split_batch 3"))
    require_other_images(flags("--batch_size 1"))
    with pytest.raises(UserError, match="--shuffle_neg needs other images"):
        require_other_images(flags("--shuffle_neg --batch_size 5 --split_batch 3"))
