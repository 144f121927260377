"""Haar high frequencies, the input of the embedding of PCL-SR."""

import torch

from runtime.files import UserError


def haar_high_frequencies(x):
    """Return the high frequencies (B, 3*C, H/2, W/2) of one orthonormal Haar level of (B, C, H, W).

    Of each 2x2 block [a b; c d]: the C channels of LH (a+b-c-d)/2, HL (a-b+c-d)/2, HH (a-b-c+d)/2.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"the Haar transform needs even sides, not {x.shape[-1]}x{x.shape[-2]}")
    top, bottom = x[..., ::2, :], x[..., 1::2, :]  # rows a b and c d: faster than single pixels
    total, difference = top + bottom, top - bottom  # (B, C, H/2, W)
    left, right = total[..., ::2], total[..., 1::2]
    left_difference, right_difference = difference[..., ::2], difference[..., 1::2]
    lh, hl = left_difference + right_difference, left - right
    return torch.cat([lh, hl, left_difference - right_difference], dim=-3) / 2


def require_even_patch(args, flag):
    """Raise UserError if the side of an HR training patch is odd."""
    for side in (args.patch_size // scale * scale for scale in args.scale):
        if side % 2:
            raise UserError(f"{flag}: the HR patch must be even, not {side} pixels (--patch_size)")
