"""VGG19 features, and the perceptual losses VGG22 and VGG54.

Johnson et al., ECCV 2016; Ledig et al., CVPR 2017. The network is that of Simonyan and Zisserman,
ICLR 2015, configuration E, with the names of torchvision's weight file.
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from loss import Term
from model.weights import download_weights, read_weights
from runtime.files import UserError
from runtime.precision import autocast

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# channels of the convolutions; 0 is a pooling
WIDTHS = (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0)
# mean and standard deviation of RGB in [0, 1] of the images that the weights were trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_layers():
    """Build the 37 layers of `features`, numbered as in torchvision."""
    layers, n_in = [], 3
    for width in WIDTHS:
        conv = [nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU()] if width else []
        layers += conv or [nn.MaxPool2d(2)]
        n_in = width or n_in
    return nn.Sequential(*layers)


class VGGFeatures(nn.Module):
    """Features of chosen layers of VGG19, frozen, for images in [0, rgb_range]."""

    def __init__(self, args, layers, normalize=True):
        """Load the weights. `layers` are indices of torchvision's `features`."""
        super().__init__()
        self.layers, self.rgb_range, self.precision = sorted(layers), args.rgb_range, "single"
        try:
            path = args.vgg_path or download_weights(URL)
        except UserError as error:
            raise UserError(f"{error}, or name it with --vgg_path") from error
        net, state = build_layers(), read_weights(path)
        for name, value in net.state_dict().items():
            if f"features.{name}" not in state or state[f"features.{name}"].shape != value.shape:
                problem = f"features.{name} is missing or has another shape"
                raise UserError(f"{path}: must be VGG19 of torchvision; {problem}")
        net.load_state_dict({name: state[f"features.{name}"] for name in net.state_dict()})
        net = net[: self.layers[-1] + 1].requires_grad_(False).to(memory_format=torch.channels_last)
        mean, std = (MEAN, STD) if normalize else ((0.0,) * 3, (1.0,) * 3)
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))
        # in a tuple, so that they are not submodules: a checkpoint must not carry VGG's weights
        self._frozen = (net, mean, std)

    def _apply(self, fn, recurse=True):
        net, mean, std = self._frozen
        self._frozen = (net._apply(fn), fn(mean), fn(std))
        return super()._apply(fn, recurse)

    def forward(self, x):
        """Return the features of x (B, 3 or 1, H, W) in [0, rgb_range], a list in float32."""
        net, mean, std = self._frozen
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = (x / self.rgb_range - mean) / std
        features = []
        with autocast(x.device, "bf16" if self.precision == "bf16" else "single"):
            for i, layer in enumerate(net):
                x = layer(x)
                if i in self.layers:
                    features.append(x.float())
        return features


class VGGLoss(Term):
    """Mean squared error of VGG19 features before the activation."""

    LAYERS = {"VGG22": 7, "VGG54": 34}  # conv2_2, conv5_4

    def __init__(self, args, name):
        super().__init__(args, name)
        self.vgg = VGGFeatures(args, [self.LAYERS[name]])

    def forward(self, sr, hr):
        """Return the scalar loss of sr and hr (B, C, H, W)."""
        with torch.no_grad():
            target = self.vgg(hr)[0]
        return mse_loss(self.vgg(sr)[0], target)
