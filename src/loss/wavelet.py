"""Haar wavelet: the high frequencies that the embedding of PCL-SR looks at, and an L1 loss on them."""

import torch
from torch import nn
from torch.nn.functional import l1_loss

from runtime.errors import UserError


def haar_high_frequencies(x):
    """Give the high-frequency bands of one level of the orthonormal Haar transform.

    Of each 2x2 block [a b; c d]: LH (a+b-c-d)/2, HL (a-b+c-d)/2, HH (a-b-c+d)/2.

    Args:
        x: (B, C, H, W), H and W even.

    Returns:
        (B, 3*C, H/2, W/2): the C channels of LH, then of HL, then of HH, in the units of x.

    Raises:
        ValueError: an odd side.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"the Haar transform needs even sides, not {x.shape[-1]}x{x.shape[-2]}")
    top, bottom = (
        x[..., ::2, :],
        x[..., 1::2, :],
    )  # rows a b and c d; whole rows are read faster than single pixels
    total, difference = top + bottom, top - bottom
    (left, right), (left_difference, right_difference) = (
        (y[..., ::2], y[..., 1::2]) for y in (total, difference)
    )
    return (
        torch.cat(
            [left_difference + right_difference, left - right, left_difference - right_difference],
            dim=-3,
        )
        / 2
    )


class WaveL1(nn.Module):
    """Mean absolute error of the Haar high frequencies of sr and hr (B, C, H, W), H and W even."""

    def __init__(self, args, name):
        super().__init__()
        side = args.patch_size // args.scale[0] * args.scale[0]
        if side % 2:
            raise UserError(
                f"--loss {name}: needs an even training patch, not {side} (--patch_size {args.patch_size})"
            )

    def forward(self, sr, hr, lr):
        return l1_loss(haar_high_frequencies(sr), haar_high_frequencies(hr))
