"""HAN: Niu et al., Single Image Super-Resolution via a Holistic Attention Network, ECCV 2020.

RCAN's groups with two attentions, figure 2: layer attention (LAM) mixes the outputs of all groups,
channel-spatial attention (CSAM) gates the last. Both start as the identity: their gamma is 0.
Departs from the published code, which works for 10 groups only.
"""

import torch
from torch import nn

from model.common import conv
from model.rcan import RCAN
from runtime.precision import autocast_off


class LayerAttention(nn.Module):
    """Attention among N feature maps (section 3.2, equations 4 and 5).

    As in the published code, the softmax is taken of max(e) - e, with e the affinities Q K^T.
    """

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def mixing_matrix(self, energy):
        """Compute gamma * attention + identity from the affinities, both (B, N, N) in float32."""
        attention = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
        identity = torch.eye(energy.shape[1], device=energy.device, dtype=attention.dtype)
        return self.gamma * attention + identity

    def forward(self, maps):
        """Mix a list of N maps (B, C, H, W) to (B, N*C, H, W)."""
        stack = torch.stack(maps, dim=1).flatten(2)  # (B, N, C*H*W)
        with autocast_off(stack):  # sums over C*H*W overflow in half precision
            stack_32 = stack.float()
            mix = self.mixing_matrix(stack_32 @ stack_32.transpose(1, 2))
        mixed = mix.to(stack.dtype) @ stack  # gamma * (A V) + V in one matmul
        return mixed.view(stack.shape[0], -1, *maps[0].shape[2:])


class ChannelSpatialAttention(nn.Module):
    """Compute x * gate * gamma + x, with a 3D convolution as gate (section 3.3, eq. 6 and 7)."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x):
        gate = self.conv(x.unsqueeze(1)).squeeze(1).sigmoid()  # (B, C, H, W)
        return x * gate * self.gamma + x


class HAN(RCAN):
    """See `SRNetwork` for shapes and ranges, `RCAN` for the arguments."""

    peak_maps = 12  # of HR size at x2, measured: layer attention holds the outputs of all groups

    def __init__(self, *, n_resgroups=10, n_feats=64, **shared):
        super().__init__(n_resgroups=n_resgroups, n_feats=n_feats, **shared)
        self.csa = ChannelSpatialAttention()
        self.la = LayerAttention()
        self.last_conv = conv(n_feats * (n_resgroups + 1), n_feats, 3)
        self.last = conv(n_feats * 2, n_feats, 3)
        self.tail = self._modules.pop("tail")  # the last one in the published weights, too

    def features(self, x):
        """Map features (B, C, H, W) through groups and attentions (section 3.1, eq. 1 to 3)."""
        outputs = []
        for group in self.body:
            x = group(x)
            outputs.append(x)
        layers = self.last_conv(self.la(outputs[::-1]))  # newest first, as in the published weights
        return self.last(torch.cat([self.csa(x), layers], dim=1))


make_model = HAN.from_args
