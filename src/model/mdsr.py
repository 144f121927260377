"""MDSR: Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017.

Section 3.3 and figure 5: one body for all scales, of 16 blocks (baseline) or 80, with two blocks
and an upsampler for each scale. As in EDSR-PyTorch, res_scale is not used.
"""

import contextlib
import re

from torch import nn

from model.common import MeanShift, OutputConv, ResBlock, Upsampler, conv
from model.loading import HINT_ERRORS, infer_flags
from runtime.precision import autocast_off, cast_to_autocast


class MDSR(nn.Module):
    """A network of several scales."""

    flags = ("n_feats", "n_colors", "rgb_range", "n_resblocks")
    multi_scale = True

    def __init__(self, *, scales, n_resblocks=16, n_feats=64, n_colors=3, rgb_range=255):
        super().__init__()
        self.scales = scales
        self.sub_mean = MeanShift(rgb_range, n_colors, sign=-1)
        self.add_mean = MeanShift(rgb_range, n_colors, sign=1)
        head = nn.Sequential(conv(n_colors, n_feats, 3))
        self.pre_process = nn.ModuleList(
            nn.Sequential(*[ResBlock(n_feats, kernel_size=5) for _ in range(2)]) for _ in scales
        )
        blocks = [ResBlock(n_feats) for _ in range(n_resblocks)]
        body = nn.Sequential(*blocks, conv(n_feats, n_feats, 3))
        self.upsample = nn.ModuleList(Upsampler(scale, n_feats) for scale in scales)
        self.head, self.body = head, body
        self.tail = nn.Sequential(OutputConv(n_feats, n_colors))

    def forward(self, lr, scale=None):
        """Map (B, n_colors, H, W) in [0, rgb_range] to (B, n_colors, H*scale, W*scale), float32."""
        branch = self.scales.index(scale or self.scales[0])
        with autocast_off(lr):
            x = self.head(self.sub_mean(lr))
        x = self.pre_process[branch](cast_to_autocast(x))  # (B, C, H, W)
        sr = self.tail(self.upsample[branch](self.body(x) + x))
        with autocast_off(sr):
            return self.add_mean(sr)

    def rename(self, state):
        """Return weights of MDSR with the branches of our scales, in our order."""
        moved = {}
        with contextlib.suppress(*HINT_ERRORS):  # of another network
            theirs = infer_flags(state)["scale"]
            for name, value in state.items():
                branch = re.fullmatch(r"(pre_process|upsample)\.(\d+)(\..+)", name)
                if not branch:
                    moved[name] = value
                elif (scale := theirs[int(branch[2])]) in self.scales:
                    moved[f"{branch[1]}.{self.scales.index(scale)}{branch[3]}"] = value
            return moved
        return state


def make_model(args):
    """Build MDSR for the scales of the flags."""
    return MDSR(scales=args.scale, **{name: getattr(args, name) for name in MDSR.flags})
