"""VGG19 features and the perceptual losses VGG22 and VGG54 (Johnson et al., ECCV 2016; Ledig et al., CVPR 2017).

The network is defined here (Simonyan and Zisserman, ICLR 2015, configuration E) with the names of torchvision's weight file.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

from model.tensor_files import download_weights
from model.weights import read_weights
from runtime.errors import UserError

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
WIDTHS = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    *[256] * 4,
    "pool",
    *[512] * 4,
    "pool",
    *[512] * 4,
    "pool",
)
# mean and standard deviation of RGB in [0, 1] that the weights were trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_layers():
    """Build the 37 layers of `features`: convolutions, ReLUs and poolings, numbered as torchvision does."""
    layers, n_in = [], 3
    for width in WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU()]
            n_in = width
    return nn.Sequential(*layers)


def weights_path(vgg_path):
    """Give the weight file: --vgg_path, else that in torch.hub's folder, downloaded if need be.

    Raises:
        UserError: it is missing and cannot be downloaded, or is another file.
    """
    if vgg_path:
        return Path(vgg_path)
    try:
        return download_weights(URL)
    except UserError as error:
        raise UserError(f"{error}, or name it by --vgg_path") from error


class VGGFeatures(nn.Module):
    """Features of chosen layers of VGG19, frozen, for images in [0, rgb_range]."""

    def __init__(self, args, layers):
        """Load the weights.

        Args:
            args: flags: vgg_path, rgb_range.
            layers: numbers of the layers, as in torchvision's `features`, whose outputs are given.

        Raises:
            UserError: the file is missing, broken or another network's.
        """
        super().__init__()
        self.kept = sorted(layers)
        net = build_layers()
        path = weights_path(args.vgg_path)
        state = read_weights(path)
        own = {f"features.{name}": value for name, value in net.state_dict().items()}
        off = [
            name
            for name, value in own.items()
            if name not in state or state[name].shape != value.shape
        ]
        if off:
            raise UserError(
                f"{path}: holds no VGG19 in torchvision's layout; {off[0]} is missing or of another shape"
            )
        net.load_state_dict({name.removeprefix("features."): state[name] for name in own})
        net = net[: self.kept[-1] + 1].requires_grad_(False)
        self._net = (
            net,
        )  # in a tuple: no part of this module, so that no checkpoint carries the weights of VGG
        self.rgb_range = args.rgb_range

    def forward(self, x):
        """Give the list of features of images (B, 3 or 1, H, W) in [0, rgb_range]."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        mean, std = (torch.tensor(values).to(x).view(1, 3, 1, 1) for values in (MEAN, STD))
        x = (x / self.rgb_range - mean) / std
        kept = []
        for number, layer in enumerate(self._net[0].to(x.device)):
            x = layer(x)
            if number in self.kept:
                kept.append(x)
        return kept


class VGGLoss(nn.Module):
    """Mean squared error of VGG19 features before the activation: VGG22 is conv2_2, VGG54 is conv5_4."""

    LAYER = {"VGG22": 7, "VGG54": 34}

    def __init__(self, args, name):
        super().__init__()
        self.vgg = VGGFeatures(args, [self.LAYER[name]])

    def forward(self, sr, hr, lr):
        """Give the loss of sr and hr (B, C, H, W); lr is not used."""
        with torch.no_grad():
            want = self.vgg(hr)[0]
        return mse_loss(self.vgg(sr)[0], want)
