"""--degradation: LR made of HR in training, tests and by prepare_data.py alike."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from data import Data
from data.degradation import (
    DEGRADATIONS,
    degradation_of,
    image_generator,
    make_lr,
    sample_generator,
)
from data.image import read_image, write_image
from data.resize import downsample
from helpers import same_bits, write_set
from option import parse_args

BICUBIC = "--model Bicubic --test_only --cpu --data_test Mine --save_results --save_gt".split()


def blurred_samples(hr, scale):
    """Return BD by a plain 2-D filter: the recipe of RDN's script, in MATLAB's order."""
    size = 7 if scale == 3 else math.ceil(3 * 1.6) * 2 + 2
    x = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.6**2))
    kernel /= kernel.sum()
    # scipy's origin of an even kernel is one pixel after MATLAB's
    origin = 0 if size % 2 else -1
    blurred = correlate(
        hr.astype(float), kernel[:, :, None], mode="nearest", origin=(origin, origin, 0)
    )
    rounded = np.floor(blurred + 0.5).astype(np.uint8)
    first = 1 if scale == 3 else scale // 2 - 1
    return rounded[first::scale, first::scale]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bd_is_the_published_recipe(sr, photographs, scale):
    status, _, err = sr(*BICUBIC, "--degradation", "BD", "--scale", scale)
    assert status == 0, err
    for name, hr in photographs.items():
        lr = read_image(sr.folder("test") / f"results-Mine+BD/{name}_x{scale}_LR.png")
        hr = hr[: 98 // scale * scale, : 121 // scale * scale]
        assert np.array_equal(lr, blurred_samples(hr, scale))


def test_dn_is_bicubic_with_noise_of_30(sr, photographs):
    for save, seed in (("a", 1), ("b", 2)):  # tests do not depend on the seed
        flags = ["--degradation", "DN", "--scale", 3, "--save", save, "--seed", seed]
        assert sr(*BICUBIC, *flags)[0] == 0
    noises = []
    for name, hr in photographs.items():
        lr = [read_image(sr.folder(s) / f"results-Mine+DN/{name}_x3_LR.png") for s in "ab"]
        assert np.array_equal(lr[0], lr[1])
        clean = downsample(hr, 3).astype(float)
        inside = (clean > 110) & (clean < 140)  # not clipped
        noises.append((lr[0] - clean)[inside])
    noise = np.concatenate(noises)
    assert abs(noise.mean()) < 1.5
    assert noise.std() == pytest.approx(30, abs=1)


@pytest.mark.parametrize(("name", "scale"), [("BD", 8), ("DN", 2), ("DN", "2+3"), ("bd", 3)])
def test_what_is_not_defined_is_named(sr, name, scale):
    status, _, err = sr.train("--degradation", name, "--scale", scale)
    assert status == 2
    assert f"--degradation {name} must be" in err or "'bd' must be one of BI, BD, DN, real" in err
    assert not sr.experiments.exists()


def data_of(root, *flags):
    """Build the Data of a small training on the set Mine."""
    small = "--patch_size 48 --batch_size 4 --test_every 3 --n_threads 0 --cpu --hold_out 1".split()
    sets = ["--data_train", "Mine", "--data_test", "Mine", "--dir_data", str(root)]
    return Data(parse_args([*small, *sets, *map(str, flags)]), lambda line: None)


@pytest.mark.parametrize(("name", "scale"), [("BD", 2), ("DN", 3), ("real", 4), ("real", 1)])
def test_prepared_lr_is_that_of_the_test_and_of_the_cache(
    sr, prepare, tmp_path, photographs, name, scale
):
    write_set(tmp_path / "Mine/HR", photographs)
    flags = ["--degradation", name, "--scale", scale]
    assert sr(*BICUBIC, *flags, data=tmp_path)[0] == 0
    made = sr.folder("test") / f"results-Mine+{name}"
    assert prepare("lr", tmp_path / "Mine/HR", "--lr", tmp_path / "lr", *flags)[0] == 0
    train_set = data_of(tmp_path, *flags).train.dataset
    for triple in train_set.pairs[0]:
        stem = triple[0].name.split(".")[0]
        lr = read_image(tmp_path / f"lr/X{scale}/{stem}x{scale}.png")
        assert np.array_equal(lr, read_image(made / f"{stem}_x{scale}_LR.png"))
        if name != "real":
            assert np.array_equal(lr, np.load(triple[1]))
        else:
            assert triple[1] is None, "an unused cache of LR images"


def test_prepared_lr_is_made_again_by_another_degradation(prepare, tmp_path, photographs):
    write_set(tmp_path / "in", photographs)
    command = ["lr", tmp_path / "in", "--lr", tmp_path / "lr", "--scale", 3]
    for flags in ([], ["--degradation", "DN"], ["--degradation", "DN", "--seed", 2], []):
        assert "4 files written" in prepare(*command, *flags)[1]
        assert "0 files written" in prepare(*command, *flags)[1]
    lr = read_image(tmp_path / "lr/X3/coffeex3.png")
    assert np.array_equal(lr, downsample(photographs["coffee"], 3))
    with pytest.raises(SystemExit):
        prepare(*command[:-1], 4, "--degradation", "DN")


def test_real_is_drawn_per_sample_and_the_same_from_any_worker(tmp_path, photographs):
    write_set(tmp_path / "Mine/HR", photographs)

    def batches(*flags, epoch=1, start=0):
        data = data_of(tmp_path, "--scale", 3, "--test_every", 6, *flags)
        found = data.epoch(epoch, start, torch.device("cpu"))
        found = [(batch.lr.clone(), batch.hr.clone()) for batch in found]
        data.close()
        return found

    real = ["--degradation", "real"]
    first = batches(*real)
    same_bits(first, batches(*real, "--n_threads", 0))
    same_bits(first[4:], batches(*real, start=4))
    same_bits([hr for _, hr in first], [hr for _, hr in batches()])
    lr, other = first[0][0], batches(*real, epoch=2)[0][0]
    assert lr.shape == other.shape
    assert not torch.equal(lr, other)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_lr_of_real_lies_where_hr_does(scale):
    """The mean over many draws of a square has its center, also at the border of the image."""
    hr = np.full((30 * scale, 40 * scale, 3), 20, np.uint8)
    hr[8 * scale : 11 * scale, 2 * scale : 5 * scale] = 230
    total = np.zeros((16, 16))
    for index in range(120):
        rng = sample_generator(1, 1, index)
        lr = make_lr(degradation_of("real"), hr, scale, rng, (0, 0, 16, 16))
        assert (lr.shape, lr.dtype) == ((16, 16, 3), np.uint8)
        total += lr.mean(2)
    light = np.maximum(total / 120 - 26, 0)
    center = [(light.sum(1 - axis) * np.arange(16)).sum() / light.sum() for axis in (0, 1)]
    assert center == pytest.approx([9, 3], abs=0.15)


def test_a_folder_of_lr_images_of_the_degradation_is_used(sr, tmp_path, photographs):
    write_set(tmp_path / "Mine/HR", photographs)
    folder = tmp_path / "Mine/LR_BD/X2"
    folder.mkdir(parents=True)
    for name, hr in photographs.items():
        write_image(folder / f"{name}x2.png", downsample(hr, 2))
    outs = [
        sr(*BICUBIC, "--scale", 2, "--degradation", name, data=tmp_path)[1] for name in ("BD", "BI")
    ]
    assert "no LR images" not in outs[0]
    assert "no LR images" in outs[1]
    files = [
        read_image(sr.folder("test") / f"results-Mine{x}/coffee_x2_LR.png") for x in ("", "+BD")
    ]
    assert np.array_equal(*files)
    assert len(list((sr.folder("test") / "per_image").iterdir())) == 2
    assert "\n--degradation BI\n" in (sr.folder("test") / "config.txt").read_text()


def test_another_code_makes_other_cache_files(tmp_path, photographs, monkeypatch):
    write_set(tmp_path / "Mine/HR", photographs)
    before = data_of(tmp_path, "--scale", 2).train.dataset.pairs[0][0][1]
    monkeypatch.setattr("data.degradation.downsample", lambda hr, scale: hr[::scale, ::scale])
    from data.degradation import fingerprint

    fingerprint.cache_clear()
    after = data_of(tmp_path, "--scale", 2).train.dataset.pairs[0][0][1]
    fingerprint.cache_clear()
    assert before != after
    assert not np.array_equal(np.load(before), np.load(after))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("wrong", ["lr.astype(float)", "lr[1:]"])
def test_what_a_degradation_must_not_return_is_named(
    sr, tmp_path, photographs, monkeypatch, wrong, per_sample
):
    code = f"""
from data.degradation import Degradation
class Wrong(Degradation):
    per_sample = {per_sample}
    def __call__(self, hr, scale, rng):
        lr = hr[::scale, ::scale]
        return {wrong}
"""
    (tmp_path / "wrong.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong", raising=False)
    degradation_of.cache_clear()
    monkeypatch.setitem(DEGRADATIONS, "Wrong", "wrong.Wrong")
    write_set(tmp_path / "Mine/HR", photographs)
    sets = ["--data_train", "Mine", "--data_test", "Mine", "--hold_out", 1]
    status, _, err = sr.train("--degradation", "Wrong", "--scale", 2, *sets, data=tmp_path)
    degradation_of.cache_clear()
    assert status == 1
    assert "--degradation Wrong must make (" in err
    assert "Traceback" not in err


def test_lr_of_another_degradation_is_named(sr, prepare, tmp_path, photographs):
    write_set(tmp_path / "Mine/HR", photographs)
    made = ["--lr", tmp_path / "Mine/LR_BD", "--scale", 3, "--degradation", "DN"]
    assert prepare("lr", tmp_path / "Mine/HR", *made)[0] == 0
    status, out, err = sr(*BICUBIC, "--degradation", "BD", "--scale", 3, data=tmp_path)
    assert status == 0, err
    assert "says DN " in out and "not --degradation BD" in out


def test_generators_differ_by_name_seed_and_sample():
    generators = [image_generator(*key) for key in ((1, "a"), (2, "a"), (1, "b"))]
    generators += [sample_generator(1, epoch, i) for epoch in (1, 2) for i in (0, 1)]
    assert len({generator.random() for generator in generators}) == len(generators)
    assert image_generator(1, "e\u0301").random() == image_generator(1, "\xe9").random()


def test_a_degradation_of_contributing_trains_and_tests_at_scale_1(
    sr, tmp_path, photographs, monkeypatch
):
    """The class of CONTRIBUTING.md, as a reader would add it."""
    text = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
    code = text.split("## A degradation")[1].split("```python")[1].split("```")[0]
    (tmp_path / "graynoise.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DEGRADATIONS, "GrayNoise", "graynoise.GrayNoise")
    write_set(tmp_path / "Mine/HR", photographs)
    sets = ["--data_train", "Mine", "--data_test", "Mine", "--hold_out", 1, "--epochs", 1]
    status, out, err = sr.train("--degradation", "GrayNoise", "--scale", 1, *sets, data=tmp_path)
    assert status == 0, err
    assert "--degradation GrayNoise" in out
    assert "[Mine x1]" in out
