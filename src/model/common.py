"""Modules that the networks share, with EDSR-PyTorch's names, so published checkpoints load."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d

from runtime.precision import autocast_off, cast_to_autocast, tf32_allowed

# Mean color of the DIV2K training images, RGB in [0, 1] (Lim et al., EDSR-PyTorch)
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

SCALES = (1, 2, 3, 4, 8)


def conv(n_in, n_out, kernel_size, bias=True):
    """Build a convolution that keeps the image size (odd kernels)."""
    return nn.Conv2d(n_in, n_out, kernel_size, padding=kernel_size // 2, bias=bias)


def mean_color(n_colors=3):
    """Return DIV2K's mean color in [0, 1], (n_colors,); unless that is 3, the mean over RGB."""
    # from numpy: torch.tensor in `build_on_meta` would import the compiler of torch, for 2 seconds
    mean = torch.from_numpy(np.array(DIV2K_MEAN, np.float32))
    return mean if n_colors == 3 else mean.mean().expand(n_colors)


class MeanShift(nn.Conv2d):
    """Subtract (sign -1) or add (sign 1) the mean color: a frozen 1x1 convolution, as published."""

    def __init__(self, rgb_range, n_colors=3, sign=-1):
        super().__init__(n_colors, n_colors, 1)
        self.weight = nn.Parameter(
            torch.from_numpy(np.eye(n_colors, dtype=np.float32))[:, :, None, None]
        )
        self.bias = nn.Parameter(sign * rgb_range * mean_color(n_colors))
        self.requires_grad_(False)


class ResBlock(nn.Module):
    """Compute x + res_scale * conv(relu(conv(x))) (Lim et al., CVPRW 2017, figure 2c, 3.2)."""

    def __init__(self, n_feats, res_scale=1.0, kernel_size=3):
        super().__init__()
        first, second = (conv(n_feats, n_feats, kernel_size) for _ in range(2))
        self.body = nn.Sequential(first, nn.ReLU(inplace=True), second)
        self.res_scale = res_scale

    def forward(self, x):
        return torch.add(x, self.body(x), alpha=self.res_scale)


class SubPixelConv(nn.Conv2d):
    """Enlarge by a factor: a 3x3 convolution, then pixel shuffle (Shi et al., CVPR 2016, eq. 4)."""

    # The weights have the published channel order (C, factor, factor), which torch's pixel_shuffle
    # gathers value by value. Here the convolution computes the order (factor, factor, C). In
    # channels_last, the shuffle then moves runs of factor*C values: twice as fast, its gradient
    # five times.

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
        x = x.permute(0, 2, 3, 1).reshape(batch, height, width, r, r * n_feats)
        rows = x.transpose(2, 3)  # (B, H, r, W, r*C)
        return rows.reshape(batch, height * r, width * r, n_feats).permute(0, 3, 1, 2)


class Upsampler(nn.Sequential):
    """Sub-pixel convolutions: x2 steps for powers of two, one x3 step for 3."""

    def __init__(self, scale, n_feats):
        if scale not in SCALES:
            scales = ", ".join(map(str, SCALES))
            raise ValueError(f"--scale {scale}: the networks have the scales {scales}")
        factors = [3] if scale == 3 else [2] * int(math.log2(scale))
        layers = []
        for factor in factors:  # in the published names, the pixel shuffle counts as a layer
            layers += [SubPixelConv(n_feats, factor), nn.Identity()]
        super().__init__(*layers)


class ConvFp32Out(torch.autograd.Function):
    """Convolution of 16-bit features: float32 result, 16-bit gradient as autocast computes it."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        with autocast_off(x), tf32_allowed():  # TF32 has all bits of bfloat16: it rounds weights
            return conv2d(x.float(), weight, bias, padding=padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad, weight_16 = grad.to(x.dtype), weight.to(x.dtype)
        bias_size, ones = [len(weight)], [1, 1]
        needed = ctx.needs_input_grad[:3]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight_16, bias_size, ones, ctx.padding, ones, False, [0, 0], 1, needed
        )
        grads = [None if g is None else g.to(weight.dtype) for g in (grad_weight, grad_bias)]
        return grad_x, *grads, None


class OutputConv(nn.Conv2d):
    """The last convolution, to colors: float32 under autocast, too, since bfloat16 has 8 bits."""

    def __init__(self, n_feats, n_colors):
        super().__init__(n_feats, n_colors, 3, padding=1)

    def forward(self, x):
        """Map (B, n_feats, H, W), of any dtype, to (B, n_colors, H, W), float32."""
        if x.dtype != self.weight.dtype and torch.is_grad_enabled():
            return ConvFp32Out.apply(x, self.weight, self.bias, self.padding)
        with autocast_off(x):
            return super().forward(x.to(self.weight.dtype))


class SRNetwork(nn.Module):
    """Mean shift, head, body with long skip, tail: the frame of the networks.

    A subclass gives a function that builds the body, or fills `self.body` later. The frame keeps
    input and output in float32 under autocast. Weights are drawn in the published code's order.
    """

    # Names of the flags that the network is built from, its keyword arguments. A resumed run cannot
    # change them. A subclass adds its own.
    flags = ("n_feats", "n_colors", "rgb_range")
    draws_add_mean_last = False  # a convolution draws numbers, also if it is overwritten

    def __init__(self, *, scale, n_feats, n_colors=3, rgb_range=255, build_body=nn.Identity):
        super().__init__()
        self.scale = scale
        self.sub_mean = MeanShift(rgb_range, n_colors, sign=-1)
        if not self.draws_add_mean_last:
            self.add_mean = MeanShift(rgb_range, n_colors, sign=1)
        head, body = nn.Sequential(conv(n_colors, n_feats, 3)), build_body()
        tail = nn.Sequential(Upsampler(scale, n_feats), OutputConv(n_feats, n_colors))
        if self.draws_add_mean_last:
            self.add_mean = MeanShift(rgb_range, n_colors, sign=1)
        self.head, self.body, self.tail = head, body, tail

    @classmethod
    def from_args(cls, args):
        """Build the network from its flags."""
        return cls(scale=args.scale[0], **{name: getattr(args, name) for name in cls.flags})

    def forward(self, lr):
        """Map (B, n_colors, H, W) in [0, rgb_range] to SR of scale times the sides, unclamped."""
        with autocast_off(lr):
            x = self.head(self.sub_mean(lr))
        x = cast_to_autocast(x)
        sr = self.tail(self.features(x) + x)
        with autocast_off(sr):
            return self.add_mean(sr)

    def features(self, x):
        """Compute the features that the long skip is added to, (B, C, H, W)."""
        return self.body(x)
