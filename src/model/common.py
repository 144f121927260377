"""Parts that the networks share. Parameter names are those of EDSR-PyTorch, so that published checkpoints load."""

import math

import torch
from torch import nn

from precision import exact, to_autocast

# Mean colour of the DIV2K training images, RGB in [0, 1] (Lim et al., EDSR-PyTorch)
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

SCALES = (1, 2, 3, 4, 8)


def conv(n_in, n_out, kernel_size, bias=True):
    """Make a convolution that keeps the image size (odd kernels)."""
    return nn.Conv2d(n_in, n_out, kernel_size, padding=kernel_size // 2, bias=bias)


class MeanShift(nn.Conv2d):
    """Subtract (sign -1) or add (sign 1) the mean colour: a frozen 1x1 convolution, as in the published checkpoints.

    For other than three channels the mean is the mean over the colours.
    """

    def __init__(self, rgb_range, n_colors=3, sign=-1):
        super().__init__(n_colors, n_colors, 1)
        mean = torch.tensor(DIV2K_MEAN)
        mean = mean if n_colors == 3 else mean.mean().expand(n_colors)
        self.weight.data = torch.eye(n_colors).view(n_colors, n_colors, 1, 1)
        self.bias.data = sign * rgb_range * mean
        self.requires_grad_(False)


class ResBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))): the residual block of EDSR (section 3.2), without normalisation."""

    def __init__(self, n_feats, res_scale=1.0):
        super().__init__()
        self.body = nn.Sequential(conv(n_feats, n_feats, 3), nn.ReLU(inplace=True), conv(n_feats, n_feats, 3))
        self.res_scale = res_scale

    def forward(self, x):
        return torch.add(x, self.body(x), alpha=self.res_scale)


class Upsampler(nn.Sequential):
    """Sub-pixel convolution (Shi et al., CVPR 2016): x2 steps for powers of two, one x3 step for 3.

    Raises:
        ValueError: another scale.
    """

    def __init__(self, scale, n_feats):
        if scale not in SCALES:
            raise ValueError(f"--scale {scale}: the networks have the scales {', '.join(map(str, SCALES))}")
        factors = [3] if scale == 3 else [2] * int(math.log2(scale))
        layers = []
        for factor in factors:
            layers += [conv(n_feats, n_feats * factor**2, 3), nn.PixelShuffle(factor)]
        super().__init__(*layers)


class SRNetwork(nn.Module):
    """The frame that the networks share: mean shift, head, body with long skip, tail. Subclasses fill `self.body`."""

    def __init__(self, *, scale, n_feats, n_colors=3, rgb_range=255):
        super().__init__()
        self.scale = scale
        self.sub_mean = MeanShift(rgb_range, n_colors, sign=-1)
        self.add_mean = MeanShift(rgb_range, n_colors, sign=1)
        self.head = nn.Sequential(conv(n_colors, n_feats, 3))
        self.tail = nn.Sequential(Upsampler(scale, n_feats), conv(n_feats, n_colors, 3))

    def forward(self, lr):
        """Super-resolve lr (B, n_colors, H, W) in [0, rgb_range] to (B, n_colors, H*scale, W*scale), not clamped."""
        with exact(lr):  # the 8 bits of a bfloat16 are too few for colours in [0, 255]
            x = self.head(self.sub_mean(lr))
        x = to_autocast(x)
        x = self.tail[0](self.features(x) + x)
        with exact(x):
            return self.add_mean(self.tail[1](x.float()))

    def features(self, x):
        """Map the head's features (B, C, H, W) to those that the long skip is added to."""
        return self.body(x)
