"""EDSR: Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017, section 3.2 and figure 3.

The baseline has 16 blocks of 64 features; the paper's large network has 32 of 256 with res_scale 0.1.
"""

from torch import nn

from model.common import ResBlock, SRNetwork, conv


class EDSR(SRNetwork):
    """See `SRNetwork` for shapes and ranges."""

    def __init__(
        self, *, scale, n_resblocks=16, n_feats=64, res_scale=1.0, n_colors=3, rgb_range=255
    ):
        super().__init__(scale=scale, n_feats=n_feats, n_colors=n_colors, rgb_range=rgb_range)
        blocks = [ResBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats, 3))


def make_model(args):
    """Build EDSR from the flags."""
    return EDSR(
        scale=args.scale[0],
        n_resblocks=args.n_resblocks,
        n_feats=args.n_feats,
        res_scale=args.res_scale,
        n_colors=args.n_colors,
        rgb_range=args.rgb_range,
    )
