"""RCAN: Zhang et al., Image Super-Resolution Using Very Deep Residual Channel Attention Networks, ECCV 2018.

Residual in residual, figure 2: the groups of channel attention blocks of attention.py between EDSR's head and tail.
The paper's network has 10 groups of 20 blocks of 64 features. res_scale is not used.
"""

from model.attention import GroupedNetwork


class RCAN(GroupedNetwork):
    """See `SRNetwork` for shapes and ranges."""


def make_model(args):
    """Build RCAN from the flags."""
    return RCAN.from_flags(args)
