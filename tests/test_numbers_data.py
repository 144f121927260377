"""Augmentation, training mode, and the order of patches, frames and scores of several ranks."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from data.datasets import parse_ranges
from data.pairs import load_array
from data.patches import BLOCK, EpochSampler, build_train_set
from data.resize import downsample
from helpers import run_two_ranks, train_set_of
from option import parse_args
from runtime.files import UserError

try:
    import imageio_ffmpeg
except ImportError:
    imageio_ffmpeg = None


def turned(image, number):
    """Return one of the 8 flips and transposes of an image (H, W, C)."""
    image = image[:: -1 if number & 1 else 1, :: -1 if number & 2 else 1]
    return image.transpose(1, 0, 2) if number & 4 else image


def number_of(patch, image):
    """Return the number of the flip or transpose of an image that a patch (C, H, W) is."""
    patch = patch.numpy().transpose(1, 2, 0)
    (found,) = [k for k in range(8) if np.array_equal(turned(image, k), patch)]
    return found


def test_all_flips_and_transposes_are_equally_frequent_and_the_same_for_lr_and_hr(photographs):
    hr = photographs["coffee"][:32, :32]
    lr = downsample(hr, 2)
    samples = train_set_of([[(hr, lr, "coffee")]], [2], 32)
    counts = Counter()
    for index in range(800):
        small, large, *_ = samples[(1, index, 0)]
        number = number_of(large, hr)
        assert number_of(small, lr) == number
        counts[number] += 1
    # 100 of each are expected, with a standard deviation of 9.4
    assert len(counts) == 8
    assert max(abs(count - 100) for count in counts.values()) < 40


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_come_from_all_places(scale):
    """Corners included: every pixel of HR that LR has is seen, and LR shows the same place."""
    hr = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48, 1).repeat(3, 2)
    samples = train_set_of([[(hr, hr[::scale, ::scale], "ramp")]], [scale], 32, no_augment=True)
    side, corners = 32 // scale * scale, set()
    for index in range(400):
        lr, patch, *_ = samples[(1, index, 0)]
        assert patch.shape == (3, side, side)
        assert torch.equal(lr, patch[:, ::scale, ::scale])
        corners.add(divmod(round(float(patch[0, 0, 0]) * 257), 48))
    ends = (length // scale * scale - side + 1 for length in (40, 48))
    ys, xs = (range(0, end, scale) for end in ends)
    assert corners == {(y, x) for y in ys for x in xs}


def test_networks_train_in_training_mode_and_are_tested_in_evaluation_mode(sr):
    modes = {True: set(), False: set()}

    def note(module, _):
        modes[torch.is_grad_enabled()].add(module.training)

    hook = register_module_forward_pre_hook(note)
    try:
        assert sr.train("--save", "run", "--epochs", 2)[0] == 0
    finally:
        hook.remove()
    assert modes == {True: {True}, False: {False}}


def files_of(folder):
    """Return the files of scores and pictures in a folder, by name."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".csv", ".png")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_two_processes_write_the_files_of_one(sr):
    """Scores and pictures belong to the right images, in sets of even and of odd size."""
    flags = "--model Bicubic --test_only --data_test Set5+DIV2K+Mine --data_range 2-4".split()
    flags += ["--save_results", "--save_gt"]
    assert sr.train("--save", "one", *flags)[0] == 0
    statuses, texts = run_two_ranks(sr.argv("--save", "two", *flags)[1:])
    assert statuses == [0, 0], texts
    one, two = (files_of(sr.folder(name)) for name in ("one", "two"))
    assert len(one) == 3 + 3 * (2 + 3 + 4)
    assert two == one
    for name in ("Set5", "DIV2K", "Mine"):
        with open(sr.folder("two") / f"per_image/{name}_x2.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        line = next(line for line in sr.metrics("two") if line["dataset"] == name)
        mean = np.mean([float(row["psnr"]) for row in rows])
        assert line["psnr"] == pytest.approx(mean, abs=1e-9)
        assert len({row["psnr"] for row in rows}) == len(rows)


@pytest.mark.skipif(imageio_ffmpeg is None, reason="imageio-ffmpeg is not installed")
def test_each_frame_of_a_video_is_that_of_its_source(sr, tmp_path):
    levels = [40, 90, 60, 200, 120, 150, 70]
    writer = imageio_ffmpeg.write_frames(str(tmp_path / "clip.mp4"), (32, 32), fps=10)
    writer.send(None)
    for level in levels:
        writer.send(np.full((32, 32, 3), level, np.uint8))
    writer.close()
    flags = "--model Bicubic --scale 2 --test_only --cpu --data_test Demo".split()
    paths = ["--dir_out", tmp_path / "out", "--dir_demo", tmp_path / "clip.mp4"]
    status, _, err = sr(*flags, *paths)
    assert status == 0, err
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "out/clip.mp4"))
    assert next(reader)["size"] == (64, 64)
    found = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    assert found == pytest.approx(levels, abs=6)


# ----------------------------------------------------- samples of an epoch


def ramp_set(n_images, side=40):
    """Return a TrainDataset of images of another ramp each; its patches are 16 pixels wide."""
    ramp = np.arange(side * side, dtype=np.uint16).reshape(side, side, 1).repeat(3, 2)
    pairs = [(ramp + 2000 * i, ramp[::2, ::2] + 2000 * i, str(i)) for i in range(n_images)]
    return train_set_of([pairs], [2], 16, no_augment=True)


def test_each_pass_over_the_images_has_an_order_of_its_own():
    samples = ramp_set(8)
    orders = {}
    for epoch in (1, 2):
        names = [samples[(epoch, index, 0)][2] for index in range(16)]
        for turn in (0, 1):
            order = tuple(names[8 * turn : 8 * turn + 8])
            assert sorted(order) == list("01234567")
            orders[epoch, turn] = order
        assert [samples[(epoch, index, 0)][2] for index in range(16)] == names
    assert len(set(orders.values())) == 4


def test_places_of_patches_differ_between_epochs_blocks_and_seeds():
    samples, other = ramp_set(1), ramp_set(1)
    other.seed = 2
    keys = [(1, 0), (2, 0), (1, BLOCK), (1, 3 * BLOCK)]
    runs = [
        [float(data_set[(epoch, first + i, 0)][1][0, 0, 0]) for i in range(12)]
        for data_set in (samples, other)
        for epoch, first in keys
    ]
    assert len(set(map(tuple, runs))) == len(runs)
    again = [float(samples[(1, i, 0)][1][0, 0, 0]) for i in reversed(range(12))]
    assert again[::-1] == runs[0], "a sample depends on its key alone"


def test_keys_of_an_epoch_and_of_the_rest_of_it():
    sampler = EpochSampler(10, 3, n_scales=2, seed=5)
    scales = {}
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert len(sampler) == 10
        whole = list(sampler)
        indices = [[key[:2] for key in keys] for keys in whole]
        assert indices == [[(epoch, 3 * batch + i) for i in range(3)] for batch in range(10)]
        assert all(len({scale for *_, scale in keys}) == 1 for keys in whole)
        scales[epoch] = [keys[0][2] for keys in whole]
        assert set(scales[epoch]) == {0, 1}
        sampler.set_epoch(epoch, start=7)
        assert len(sampler) == 3
        assert list(sampler) == whole[7:]
    assert scales[1] != scales[2]


def test_sizes_and_thumbnails_are_those_of_the_first_scale(photographs):
    hr = photographs["coffee"]
    images = {"a": hr[:98, :96], "b": hr}
    pairs = [[(x, downsample(x, s), name) for name, x in images.items()] for s in (2, 4)]
    samples = train_set_of(pairs, [2, 4], 40)
    assert len(samples) == 2
    assert samples.summaries[0].sizes[:, :2].tolist() == [[98, 96], [98, 121]]
    assert samples.max_sample_bytes() == 4 * 3 * (40**2 + 20**2)
    first, second = (samples.thumbnail(i) for i in (0, 1))
    assert first.shape == second.shape == (16, 16)
    assert not np.array_equal(first, second)
    lr, patch, _, scale = samples[(1, 0, 1)]
    assert (tuple(lr.shape), tuple(patch.shape), scale) == ((3, 10, 10), (3, 40, 40), 4)


def test_an_image_below_the_patch_is_named_with_both_sizes(photographs):
    hr = photographs["coffee"][:50, :90]
    pairs = [[(hr, downsample(hr, 2), "small.png")]]
    assert len(train_set_of(pairs, [2], 50)) == 1
    text = r"small.png is 90x50 pixels: smaller than the patch of 52x52 \(--patch_size\)"
    with pytest.raises(UserError, match=text):
        train_set_of(pairs, [2], 53)


@pytest.fixture
def train_set(data_dir, tmp_path):
    """Build the training set of flags; its cache is in tmp_path/cache."""

    def build(*more):
        lines = []
        where = ["--dir_data", str(data_dir), "--dir_cache", str(tmp_path / "cache")]
        small = ["--scale", "2", "--patch_size", "32", "--data_range", "2-3/4-4"]
        args = parse_args([*where, *small, *more])
        return build_train_set(args, parse_ranges(args.data_range)[0], lines.append), lines

    return build


def test_each_kind_of_input_is_held_as_its_flag_says(train_set, photographs):
    for ext, kind in (("img", ".png"), ("sep", ".npy"), ("bin", np.ndarray)):
        samples, _ = train_set("--ext", ext)
        ((first, _),) = ([pair[:2] for pair in pairs] for pairs in samples.pairs)
        assert len(samples) == 2, "--data_range 2-3"
        for image in first:
            assert isinstance(image, kind) if ext == "bin" else image.suffix == kind
        assert np.array_equal(load_array(first[0]), photographs["chelsea"]), "the second image"
    for ext, moment in (("img", "for each patch"), ("sep", "once, and kept")):
        lines = train_set("--ext", ext, "--data_train", "Mine", "--data_test", "Set5")[1]
        assert moment in lines[0]


def test_the_cache_is_kept_unless_the_flag_makes_it_anew(train_set, tmp_path):
    train_set()
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    assert sorted(path.parent.name for path in files) == ["HR", "HR", "LR_X2", "LR_X2"]
    before = [path.read_bytes() for path in files]
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = [path.read_bytes() for path in files]
    train_set("--ext", "sep")
    assert [path.read_bytes() for path in files] == changed
    train_set("--ext", "sep_reset")
    assert [path.read_bytes() for path in files] == before
