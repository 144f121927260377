"""RCAN: Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks.

ECCV 2018. Residual in residual, figure 2: groups of channel attention blocks between EDSR's head
and tail, in the paper 10 of 20 blocks of 64 features. As published, res_scale is not used.
"""

import torch
from torch import nn

from model.common import SRNetwork, conv


class ChannelAttention(nn.Module):
    """Compute a gate in (0, 1) per channel from the channel means (section 3.3, eq. 7 and 8)."""

    def __init__(self, n_feats, reduction=16):
        super().__init__()
        if n_feats < reduction:
            raise ValueError(f"--reduction {reduction} must be at most --n_feats {n_feats}")
        self.conv_du = nn.Sequential(
            nn.Conv2d(n_feats, n_feats // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_feats // reduction, n_feats, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        """Return the gates (B, C, 1, 1) of x (B, C, H, W)."""
        return self.conv_du(x.mean((2, 3), keepdim=True))


class RCAB(nn.Module):
    """Compute x + gate * conv(relu(conv(x))): section 3.4, equations 10 and 11."""

    def __init__(self, n_feats, reduction=16):
        super().__init__()
        self.body = nn.Sequential(
            conv(n_feats, n_feats, 3),
            nn.ReLU(inplace=True),
            conv(n_feats, n_feats, 3),
            ChannelAttention(n_feats, reduction),
        )

    def forward(self, x):
        conv1, relu, conv2, attention = self.body
        y = conv2(relu(conv1(x)))
        return torch.addcmul(x, y, attention(y))  # product and sum read the feature maps once


class ResidualGroup(nn.Module):
    """Blocks, a convolution and a short skip connection (section 3.2, equation 5)."""

    def __init__(self, n_feats, n_resblocks, reduction=16):
        super().__init__()
        blocks = [RCAB(n_feats, reduction) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats, 3))

    def forward(self, x):
        return x + self.body(x)


class RCAN(SRNetwork):
    """Residual in residual (section 3.2, equation 4). See `SRNetwork` for shapes and ranges."""

    flags = (*SRNetwork.flags, "n_resgroups", "n_resblocks", "reduction")
    draws_add_mean_last = True

    def __init__(self, *, n_resgroups=10, n_resblocks=20, n_feats=64, reduction=16, **shared):
        def build_body():
            groups = [ResidualGroup(n_feats, n_resblocks, reduction) for _ in range(n_resgroups)]
            return nn.Sequential(*groups, conv(n_feats, n_feats, 3))

        super().__init__(n_feats=n_feats, build_body=build_body, **shared)


make_model = RCAN.from_args
