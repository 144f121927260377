"""Parts that the networks share. Parameter names are those of EDSR-PyTorch, so that published checkpoints load."""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d

from runtime.precision import autocast_off, cast_to_autocast

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
        self.body = nn.Sequential(
            conv(n_feats, n_feats, 3), nn.ReLU(inplace=True), conv(n_feats, n_feats, 3)
        )
        self.res_scale = res_scale

    def forward(self, x):
        return torch.add(x, self.body(x), alpha=self.res_scale)


class SubPixelConv(nn.Conv2d):
    """Enlarge by a factor: a 3x3 convolution whose channels are rearranged to pixels (Shi et al., CVPR 2016, equation 4).

    Channels of the weights are in the published order (C, factor, factor), that of torch's pixel_shuffle, which gathers them
    one by one. Here the convolution computes them in the order (factor, factor, C): in channels_last, the rearrangement then
    moves runs of factor*C values, at twice the speed, and its gradient at five times.
    """

    def __init__(self, n_feats, factor):
        super().__init__(n_feats, n_feats * factor**2, 3, padding=1)
        self.factor = factor

    def _reordered(self, parameter):
        return parameter.unflatten(0, (-1, self.factor**2)).transpose(0, 1).flatten(0, 1)

    def forward(self, x):
        """Map (B, C, H, W) to (B, C, H*factor, W*factor)."""
        x = self._conv_forward(x, self._reordered(self.weight), self._reordered(self.bias))
        batch, channels, height, width = x.shape
        r, n_feats = self.factor, channels // self.factor**2
        rows = (
            x.permute(0, 2, 3, 1).reshape(batch, height, width, r, r * n_feats).transpose(2, 3)
        )  # (B, H, r, W, r*C)
        return rows.reshape(batch, height * r, width * r, n_feats).permute(0, 3, 1, 2)


class Upsampler(nn.Sequential):
    """Sub-pixel convolutions: x2 steps for powers of two, one x3 step for 3.

    Raises:
        ValueError: another scale.
    """

    def __init__(self, scale, n_feats):
        if scale not in SCALES:
            raise ValueError(
                f"--scale {scale}: the networks have the scales {', '.join(map(str, SCALES))}"
            )
        factors = [3] if scale == 3 else [2] * int(math.log2(scale))
        layers = []
        for factor in factors:
            layers += [
                SubPixelConv(n_feats, factor),
                nn.Identity(),
            ]  # the published names count a layer for the shuffle
        super().__init__(*layers)


class ConvFp32Out(torch.autograd.Function):
    """A convolution of features in 16 bits to a result in 32; its gradient is computed in 16, as autocast computes others."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        with autocast_off(x):
            return conv2d(x.float(), weight, bias, padding=padding)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient, low = gradient.to(x.dtype), weight.to(x.dtype)
        size, once = [len(weight)], [1, 1]
        wanted = ctx.needs_input_grad[:3]
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient, x, low, size, once, ctx.padding, once, False, [0, 0], 1, wanted
        )
        return (
            to_x,
            *(None if g is None else g.to(weight.dtype) for g in (to_weight, to_bias)),
            None,
        )


class OutputConv(nn.Conv2d):
    """The last convolution, from features to colours, which are always in 32 bits: the 8 bits of a bfloat16 are too few."""

    def __init__(self, n_feats, n_colors):
        super().__init__(n_feats, n_colors, 3, padding=1)

    def forward(self, x):
        """Map (B, n_feats, H, W), of any dtype, to (B, n_colors, H, W), float32."""
        if x.dtype != self.weight.dtype and torch.is_grad_enabled():
            return ConvFp32Out.apply(x, self.weight, self.bias, self.padding)
        with autocast_off(x):
            return super().forward(x.to(self.weight.dtype))


class SRNetwork(nn.Module):
    """The frame that the networks share: mean shift, head, body with long skip, tail. Subclasses fill `self.body`."""

    def __init__(self, *, scale, n_feats, n_colors=3, rgb_range=255):
        super().__init__()
        self.scale = scale
        self.sub_mean = MeanShift(rgb_range, n_colors, sign=-1)
        self.add_mean = MeanShift(rgb_range, n_colors, sign=1)
        self.head = nn.Sequential(conv(n_colors, n_feats, 3))
        self.tail = nn.Sequential(Upsampler(scale, n_feats), OutputConv(n_feats, n_colors))

    def forward(self, lr):
        """Super-resolve lr (B, n_colors, H, W) in [0, rgb_range] to (B, n_colors, H*scale, W*scale), not clamped."""
        with autocast_off(lr):  # the 8 bits of a bfloat16 are too few for colours in [0, 255]
            x = self.head(self.sub_mean(lr))
        x = cast_to_autocast(x)
        sr = self.tail(self.features(x) + x)
        with autocast_off(sr):
            return self.add_mean(sr)

    def features(self, x):
        """Map the head's features (B, C, H, W) to those that the long skip is added to."""
        return self.body(x)
