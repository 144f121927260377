"""Test images: whole, with ground truth, or files without it."""

from pathlib import Path
from typing import NamedTuple

import torch

from data.datasets import DEMO_SETS, dataset_spec, find_pairs, list_demo_inputs
from data.image import image_size, read_image, to_channels, to_tensor
from data.patches import paired_lr_size
from data.resize import downsample
from metric import crop_border
from runtime.errors import UserError


class TestImage(NamedTuple):
    """One test image: lr (C,h,w) and hr (C,h*scale,w*scale), white at 255, uint8 or float32; name without ending."""

    __test__ = False  # not a test of pytest's

    lr: torch.Tensor
    hr: torch.Tensor
    name: str


class TestSet:
    """The images of one test set at one scale, decoded when they are asked for."""

    __test__ = False

    def __init__(self, name, scale, pairs, n_colors=3, benchmark=True):
        """Keep the pairs of paths (HR, LR or None) and check from the files' headers that sizes match."""
        self.name, self.scale, self.pairs, self.n_colors, self.benchmark = (
            name,
            scale,
            pairs,
            n_colors,
            benchmark,
        )
        border = crop_border(scale, benchmark)
        for hr, lr in pairs:
            size = image_size(hr)
            if lr is not None:
                paired_lr_size(size, image_size(lr), scale, (hr, lr))
            if min(side // scale * scale for side in size) <= 2 * border:
                raise UserError(
                    f"{hr} is {size[1]}x{size[0]} pixels: nothing is left inside the border of {border} of the metrics"
                )

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        hr_path, lr_path = self.pairs[index]
        hr = read_image(hr_path)
        lr = downsample(hr, self.scale) if lr_path is None else read_image(lr_path)
        height, width = paired_lr_size(
            hr.shape[:2], lr.shape[:2], self.scale, (hr_path, lr_path or hr_path)
        )
        hr = hr[: height * self.scale, : width * self.scale]
        return TestImage(self._tensor(lr[:height, :width]), self._tensor(hr), hr_path.stem)

    def _tensor(self, image):
        return to_tensor(to_channels(image, self.n_colors))


class DemoSet(NamedTuple):
    """Pictures and videos without ground truth, to be upscaled; `demo.upscale_all` does it.

    Attributes:
        name: Demo or MyImage.
        scale: int.
        files: list of Path.
        skipped: names of files and folders beside them that are neither.
    """

    name: str
    scale: int
    files: list
    skipped: list


def build_test_sets(args, data_range):
    """Make a TestSet, or a DemoSet where there is no ground truth, for each of --data_test at each of --scale.

    Raises:
        UserError: see `find_pairs` and `paired_lr_size`.
    """
    sets = []
    for name in args.data_test:
        for scale in args.scale:
            if name in DEMO_SETS:
                own = (
                    Path(args.testpath, args.testset, f"x{scale}")
                    if name == "MyImage"
                    else Path(args.dir_demo)
                )
                sets.append(DemoSet(name, scale, *list_demo_inputs(own)))
                continue
            pairs = find_pairs(args.dir_data, name, scale, data_range)
            sets.append(TestSet(name, scale, pairs, args.n_colors, dataset_spec(name).benchmark))
    return sets
