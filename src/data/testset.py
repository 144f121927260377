"""Test images: complete, with ground truth, or files without it."""

from pathlib import Path
from typing import NamedTuple

import torch

from data.datasets import (
    DEMO_SETS,
    dataset_spec,
    find_pairs,
    is_held_out,
    list_demo_inputs,
    missing_lr_line,
    split_hold_out,
)
from data.degradation import TEST_SEED, degradation_of, image_lr
from data.image import image_size, to_channels, to_tensor
from data.pairs import load_pair, pair_sizes
from metric import crop_border
from runtime.files import UserError, bullet_list

KEPT_BYTES = 2**29  # decoded test images that stay in memory between the tests of a training


class TestImage(NamedTuple):
    """One test image in [0, 255], uint8 or float32."""

    __test__ = False  # not a test class of pytest

    lr: torch.Tensor  # (C, h, w)
    hr: torch.Tensor  # (C, h*scale, w*scale)
    name: str  # without ending


class TestSet:
    """The images of one test set at one scale, decoded when they are used."""

    __test__ = False

    def __init__(self, name, scale, pairs, args, kept_bytes):
        """Check the sizes of pairs of paths (HR, LR or None) by the headers of the files."""
        spec = dataset_spec(name)
        self.name, self.scale, self.pairs = name, scale, pairs
        self.n_colors, self.benchmark = args.n_colors, spec.benchmark
        self._degradation = degradation_of(args.degradation)
        self.expects_bicubic = spec.is_published_test() and args.degradation == "BI"
        self._kept, self._free = {}, kept_bytes
        problems, border = [], crop_border(scale, self.benchmark)
        for hr, lr in pairs:
            try:
                size = image_size(hr)
                pair_sizes(size, lr and image_size(lr), scale, (hr, lr))
            except UserError as error:
                problems.append(str(error))
                continue
            if min(side // scale * scale for side in size) <= 2 * border:
                text = f"{hr} is {size[1]}x{size[0]} pixels: nothing is left inside the crop border"
                problems.append(f"{text} of {border} of the metrics")
        if problems:
            more = f"{len(problems)} pairs of {name} cannot be used:" + bullet_list(problems)
            raise UserError(more if len(problems) > 1 else problems[0])

    def __len__(self):
        return len(self.pairs)

    def arrays(self, index):
        """Return (hr, lr) of a pair, (H, W, C), uint8 or uint16."""
        if index in self._kept:
            return self._kept[index]
        pair = self.pairs[index]

        def make(hr):
            return image_lr(hr, pair[0], self._degradation, self.scale, TEST_SEED)

        hr, lr = load_pair(*pair, self.scale, pair, make)
        if hr.nbytes + lr.nbytes <= self._free:
            self._free -= hr.nbytes + lr.nbytes
            self._kept[index] = hr, lr
        return hr, lr

    def __getitem__(self, index):
        hr, lr = (to_tensor(to_channels(image, self.n_colors)) for image in self.arrays(index))
        return TestImage(lr, hr, self.pairs[index][0].stem)


class DemoSet(NamedTuple):
    """Images and videos without ground truth, to be upscaled by `demo.upscale_all`."""

    name: str  # of DEMO_SETS
    scale: int
    files: list  # of Path
    skipped: list  # names of other files and folders in the same folder


def _build_test_set(args, name, scale, data_range, log):
    if name in DEMO_SETS:
        source = args.dir_demo
        if name == "MyImage":
            source = Path(args.testpath, args.testset, f"x{scale}")
        return DemoSet(name, scale, *list_demo_inputs(source))
    pairs = find_pairs(args.dir_data, name, scale, data_range, log, args.degradation)
    _, pairs = split_hold_out(args, name, pairs)
    if is_held_out(args, name):
        log(f"{name}: its last {args.hold_out} images are the test set (--hold_out)")
    if pairs[0][1] is None:
        log(missing_lr_line(args, name, scale, "for the tests, and not kept"))
    kept_bytes = 0 if args.test_only else KEPT_BYTES // (len(args.data_test) * len(args.scale))
    return TestSet(name, scale, pairs, args, kept_bytes)


def build_test_sets(args, data_range, log=print):
    """Build a TestSet, or a DemoSet without ground truth, for each of --data_test and --scale."""
    return [
        _build_test_set(args, name, scale, data_range, log)
        for name in args.data_test
        for scale in args.scale
    ]
