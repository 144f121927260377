"""What would spoil a result without any error is reported."""

import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from data.checks import check_alignment
from data.image import read_image, write_image
from data.resize import downsample
from helpers import write_set

BICUBIC = "--model Bicubic --test_only --data_test Set5 --cpu --scale".split()


@pytest.fixture
def copy(data_dir, tmp_path):
    """A copy of the data to change."""
    shutil.copytree(data_dir, tmp_path / "datasets", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "datasets"


def warnings(result, trained_on=False):
    """The warnings of a run, of test images that are trained on or all others: in the small data of the tests some are."""
    status, out, err = result
    assert status == 0, err
    lines = [line for line in out.splitlines() if line.startswith("WARNING: ")]
    lines = [line for line in lines if ("is also a training image" in line) == trained_on]
    return [line.removeprefix("WARNING: ") for line in lines]


def train(sr, *flags, data, trained_on=False):
    """The warnings of one step of training."""
    flags = ["--save", "run", "--reset", "--epochs", 1, "--test_every", 1, *flags]
    return warnings(sr.train(*flags, data=data), trained_on)


def test_matching_pairs_of_all_sets_are_not_reported(sr, data_dir):
    assert train(sr, data=data_dir) == []
    assert train(sr, "--scale", 4, "--n_colors", 1, data=data_dir) == []


@pytest.mark.parametrize(
    ("shift", "words", "flags"),
    [
        ((0, 1), "1 left", ["--ext", "sep"]),
        ((-2, 0), "2 down", ["--ext", "img"]),
        ((1, -1), "1 up and 1 right", ["--n_colors", "1"]),
    ],
)
def test_hr_shifted_by_a_pixel_is_reported(sr, copy, shift, words, flags):
    hr = copy / "DIV2K/DIV2K_train_HR/0002.png"
    write_image(hr, np.roll(read_image(hr), shift, (0, 1)))
    found = train(sr, *flags, data=copy)
    assert found == [
        f"{hr}: its LR image of scale 2 is shifted against its HR image, by {words} (HR pixels)"
    ]


def test_lr_images_in_another_order_are_reported(sr, copy):
    lr = copy / "DIV2K/DIV2K_train_LR_bicubic/X2"
    images = [read_image(lr / f"000{i}x2.png") for i in (1, 2, 3)]
    for i in (1, 2, 3):
        write_image(lr / f"000{i}x2.png", images[i % 3])
    hr, words = copy / "DIV2K/DIV2K_train_HR", "does not show the same as its HR image"
    assert train(sr, data=copy) == [
        f"{hr}/000{i}.png: its LR image of scale 2 {words}" for i in (1, 2, 3)
    ]


@pytest.mark.parametrize("test_only", [False, True])
def test_lr_images_of_a_test_are_looked_at_too(sr, copy, test_only):
    lr = copy / "benchmark/Set5/LR_bicubic/X2/coffeex2.png"
    write_image(lr, np.roll(read_image(lr), 1, 0))
    found = warnings(sr(*BICUBIC, 2, data=copy)) if test_only else train(sr, data=copy)
    assert found == [f"{lr} is shifted against its HR image, by 2 down (HR pixels)"]


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_that_was_made_otherwise_is_not_reported(photographs, name, scale):
    hr = photographs[name][: 98 // scale * scale, : 121 // scale * scale]
    lr = downsample(hr, scale)
    noise = np.random.default_rng(0).normal(0, 12, lr.shape)
    boxes = hr.reshape(lr.shape[0], scale, lr.shape[1], scale, 3).mean((1, 3))
    for other in (np.clip(lr + noise, 0, 255), 255 * (lr / 255) ** 0.6, boxes):
        assert check_alignment(hr, other.astype(np.uint8), scale) is None


def test_test_images_that_are_trained_on_are_reported(sr, copy):
    other = copy / "Other/HR"
    own = read_image(copy / "Mine/HR/coffee.png")
    write_set(other, {"mine_a": own, "mine_b": own[::-1]})
    iio.imwrite(other / "mine_c.jpg", read_image(copy / "Mine/HR/rocket.png"), quality=92)
    flags = ["--data_train", "Mine", "--data_test", "Other"]
    expected = [
        f"{other}/mine_a.png is also a training image: {copy}/Mine/HR/coffee.png (see --hold_out)",
        f"{other}/mine_c.jpg is also a training image: {copy}/Mine/HR/rocket.png (see --hold_out)",
    ]
    assert train(sr, *flags, data=copy, trained_on=True) == expected
    flags += ["--ext", "img", "--scale", 4]
    assert train(sr, *flags, data=copy, trained_on=True) == expected
    # the DIV2K of the tests trains on astronaut, chelsea and coffee; Set5 has the last two of them
    assert len(train(sr, "--n_colors", 1, data=copy, trained_on=True)) == 2


@pytest.mark.parametrize(
    ("change", "words", "scale"),
    [
        (lambda lr: lr[:, :, ::-1], "has its color channels in another order, perhaps BGR", 2),
        (lambda lr: lr[:, :, [1, 2, 0]], "has its color channels in another order, perhaps BGR", 2),
        (lambda lr: lr[:, :, [1, 1, 1]], "has no colors, and its HR image has", 4),
        (lambda lr: 255 - lr, "is inverted against its HR image", 2),
        (lambda lr: lr * 0 + 77, "is flat, and its HR image is not", 4),
        (lambda lr: lr[::-1], "does not show the same as its HR image", 4),
    ],
)
def test_lr_with_wrong_colors_or_none_is_reported(sr, copy, change, words, scale):
    lr = copy / f"DIV2K/DIV2K_train_LR_bicubic/X{scale}/0003x{scale}.png"
    write_image(lr, change(read_image(lr)))
    found = train(sr, "--scale", scale, data=copy)
    hr = copy / "DIV2K/DIV2K_train_HR/0003.png"
    assert found == [f"{hr}: its LR image of scale {scale} {words}"]


@pytest.mark.parametrize("scale", [2, 4])
def test_a_benchmark_with_lr_of_another_bicubic_is_reported(sr, copy, scale):
    folder = copy / f"benchmark/Set5/LR_bicubic/X{scale}"
    assert warnings(sr(*BICUBIC, scale, data=copy)) == []
    for path in folder.iterdir():
        hr = Image.fromarray(read_image(copy / f"benchmark/Set5/HR/{path.name.split('x')[0]}.png"))
        lr = read_image(path).shape[1::-1]
        hr = hr.crop((0, 0, lr[0] * scale, lr[1] * scale))
        hr.resize(lr, Image.Resampling.BICUBIC).save(path)
    (line,) = warnings(sr(*BICUBIC, scale, data=copy))
    assert "is not MATLAB's bicubic downsampling of its HR image" in line
    assert "results on Set5 cannot be compared" in line
