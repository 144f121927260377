"""RCAN: Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks, ECCV 2018.

Residual in residual, figure 2: groups of channel attention blocks between EDSR's head and tail. The paper's network has
10 groups of 20 blocks of 64 features. res_scale is not used. HAN builds on the same groups.
"""

import torch
from torch import nn

from model.common import SRNetwork, conv


class ChannelAttention(nn.Module):
    """A gate in (0, 1) for each channel, computed from the means of all channels (section 3.3, equations 7 and 8)."""

    def __init__(self, n_feats, reduction=16):
        super().__init__()
        if n_feats < reduction:
            raise ValueError(f"--reduction {reduction}: is larger than --n_feats {n_feats}")
        self.conv_du = nn.Sequential(
            nn.Conv2d(n_feats, n_feats // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_feats // reduction, n_feats, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        """Give the gates (B, C, 1, 1) of x (B, C, H, W)."""
        return self.conv_du(x.mean((2, 3), keepdim=True))


class RCAB(nn.Module):
    """Residual channel attention block: x + gate * conv(relu(conv(x))) (section 3.4, equations 10 and 11)."""

    def __init__(self, n_feats, reduction=16):
        super().__init__()
        self.body = nn.Sequential(
            conv(n_feats, n_feats, 3),
            nn.ReLU(inplace=True),
            conv(n_feats, n_feats, 3),
            ChannelAttention(n_feats, reduction),
        )

    def forward(self, x):
        first, relu, second, attention = self.body
        y = second(relu(first(x)))
        return torch.addcmul(x, y, attention(y))  # in one pass


class ResidualGroup(nn.Module):
    """Blocks, a convolution and a short skip connection (section 3.2, equation 5)."""

    def __init__(self, n_feats, n_resblocks, reduction=16):
        super().__init__()
        blocks = [RCAB(n_feats, reduction) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats, 3))

    def forward(self, x):
        return x + self.body(x)


class ResidualInResidual(SRNetwork):
    """Residual in residual: `n_resgroups` groups and a convolution as `body` (section 3.2, equation 4)."""

    def __init__(
        self,
        *,
        scale,
        n_resgroups=10,
        n_resblocks=20,
        n_feats=64,
        reduction=16,
        n_colors=3,
        rgb_range=255,
    ):
        super().__init__(scale=scale, n_feats=n_feats, n_colors=n_colors, rgb_range=rgb_range)
        groups = [ResidualGroup(n_feats, n_resblocks, reduction) for _ in range(n_resgroups)]
        self.body = nn.Sequential(*groups, conv(n_feats, n_feats, 3))

    @classmethod
    def from_flags(cls, args):
        """Build the network from the flags."""
        return cls(
            scale=args.scale[0],
            n_resgroups=args.n_resgroups,
            n_resblocks=args.n_resblocks,
            n_feats=args.n_feats,
            reduction=args.reduction,
            n_colors=args.n_colors,
            rgb_range=args.rgb_range,
        )


class RCAN(ResidualInResidual):
    """See `SRNetwork` for shapes and ranges."""


def make_model(args):
    """Build RCAN from the flags."""
    return RCAN.from_flags(args)
