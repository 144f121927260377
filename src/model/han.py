"""HAN: Niu et al., Single Image Super-Resolution via a Holistic Attention Network, ECCV 2020.

RCAN's groups, with an attention over the outputs of all groups (layer attention, LAM) and one over the channels and places
of the last of them (channel-spatial attention, CSAM), figure 2. Both start as the identity: their gamma is 0.

Departs from the published code, which works for 10 groups alone: here the number of groups is free.
"""

import torch
from torch import nn
from torch.nn.functional import conv2d

from model.common import conv
from model.rcan import ResidualInResidual
from runtime.precision import autocast_off

PART = 2**16  # values of each map that are in 32 bits at a time


def _gram_matrix(maps):
    """Give the products of N maps (B, C, H, W) with each other, (B, N, N) in 32 bits, without all of them side by side."""
    energy = 0.0
    for parts in zip(
        *(x.permute(0, 2, 3, 1).flatten(1).split(PART, dim=1) for x in maps), strict=True
    ):
        part = torch.stack(parts, dim=1).float()
        energy = energy + part @ part.transpose(1, 2)
    return energy


class LayerAttention(nn.Module):
    """Attention among N feature maps (section 3.2, equations 4 and 5).

    In the code that the weights were published with, the affinity e is taken as max(e) - e before the softmax.
    """

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def mix(self, energy):
        """Turn the affinities Q K^T (B, N, N), float32, into the matrix that the maps are mixed by: gamma * softmax + 1."""
        attention = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
        return self.gamma * attention + torch.eye(
            energy.shape[1], device=energy.device, dtype=attention.dtype
        )

    def forward(self, maps):
        """Mix a list of N maps (B, C, H, W) to (B, N*C, H, W)."""
        stack = torch.stack(maps, dim=1).flatten(2)  # (B, N, C*H*W)
        with autocast_off(stack):  # sums over C*H*W overflow in half precision
            wide = stack.float()
            mix = self.mix(wide @ wide.transpose(1, 2))
        mixed = mix.to(stack.dtype) @ stack  # gamma * (A V) + V, in one product
        return mixed.view(stack.shape[0], -1, *maps[0].shape[2:])

    def through(self, maps, last_conv):
        """Give last_conv(self(maps)) without the (B, N*C, H, W) tensor, which takes the most memory of the network.

        Mixing is linear, so the matrix goes into the kernel of the convolution that follows. For inference.
        """
        with autocast_off(maps[0]):  # as above
            mix = self.mix(_gram_matrix(maps))
        kernel = last_conv.weight.unflatten(1, (len(maps), -1))  # (C', N, C, 3, 3)
        results = []
        for i in range(len(mix)):
            parts = torch.einsum("onchw,nm->mochw", kernel, mix[i])
            y = last_conv.bias.view(1, -1, 1, 1)
            for x, part in zip(maps, parts, strict=True):
                y = y + conv2d(x[i : i + 1], part, padding=last_conv.padding)
            results.append(y)
        return torch.cat(results)


class ChannelSpatialAttention(nn.Module):
    """x * gate * gamma + x, the gate from a 3D convolution over channels and places (section 3.3, equations 6 and 7)."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x):
        gate = self.conv(x.unsqueeze(1)).squeeze(1).sigmoid()  # (B, C, H, W)
        return x * gate * self.gamma + x


class HAN(ResidualInResidual):
    """See `SRNetwork` for shapes and ranges, `ResidualInResidual` for the arguments."""

    def __init__(self, *, n_resgroups=10, n_feats=64, **shape):
        super().__init__(n_resgroups=n_resgroups, n_feats=n_feats, **shape)
        self.la = LayerAttention()
        self.csa = ChannelSpatialAttention()
        self.last_conv = conv(n_feats * (n_resgroups + 1), n_feats, 3)
        self.last = conv(n_feats * 2, n_feats, 3)

    def features(self, x):
        """Map the head's features (B, C, H, W) through the groups and both attentions (section 3.1, equations 1 to 3)."""
        outputs = []
        for child in self.body:
            x = child(x)
            outputs.append(x)
        maps = outputs[::-1]  # the newest first
        layers = (
            self.last_conv(self.la(maps))
            if torch.is_grad_enabled()
            else self.la.through(maps, self.last_conv)
        )
        return self.last(torch.cat([self.csa(x), layers], dim=1))


def make_model(args):
    """Build HAN from the flags."""
    return HAN.from_flags(args)
