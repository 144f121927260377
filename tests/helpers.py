"""What several tests use."""

import torch

from data.image import write_image
from data.resize import downsample


def write_set(hr_folder, images, lr_folder=None, scales=()):
    """Write images {name: array} as HR, and their LR images of the scales."""
    hr_folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        write_image(hr_folder / f"{name}.png", image)
        for scale in scales:
            folder = lr_folder / f"X{scale}"
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{name}x{scale}.png", downsample(image, scale))


def same_bits(a, b, path=""):
    """Assert that two nested structures are equal, tensors bit by bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same_bits(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b, strict=True)):
            same_bits(*pair, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def state_of(folder):
    """Load the training state of an experiment folder."""
    return torch.load(folder / "model/state.pt", weights_only=True)
