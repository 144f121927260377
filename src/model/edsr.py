"""EDSR: Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017.

The single-scale network of section 3.2 and figure 3, as in EDSR-PyTorch: 16 blocks of 64 features
(baseline) or 32 blocks of 256 features with res_scale 0.1.
"""

from torch import nn

from model.common import ResBlock, SRNetwork, conv


class EDSR(SRNetwork):
    """See `SRNetwork` for shapes and ranges."""

    flags = (*SRNetwork.flags, "n_resblocks", "res_scale")

    def __init__(self, *, n_resblocks=16, n_feats=64, res_scale=1.0, **shared):
        def build_body():
            blocks = [ResBlock(n_feats, res_scale) for _ in range(n_resblocks)]
            return nn.Sequential(*blocks, conv(n_feats, n_feats, 3))

        super().__init__(n_feats=n_feats, build_body=build_body, **shared)


make_model = EDSR.from_args
