"""Running a network on whole images: in tiles, and as the mean over flips and transposes."""

import torch

from model import is_multi_scale
from precision import autocast

OutOfMemoryError = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # torch 2.4 has the second alone


def _spans(length, tile, overlap):
    """Cover `length` by spans of at most `tile` pixels, each sharing at least `overlap` pixels with the next."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def _ramps(spans, scale, overlap, like):
    """Give each span's weights along one axis, (length * scale,) of the dtype and device of `like`: they sum to 1.

    Neighbours are blended over a band of overlap / 2 LR pixels in the middle of what they share, so that the pixels at a
    span's own edge, which see least around them, count nothing.
    """
    band = max(overlap * scale / 2, 1e-3)
    ramps = []
    for number, (start, end) in enumerate(spans):
        position = torch.arange(start * scale, end * scale, device=like.device, dtype=like.dtype) + 0.5
        weight = torch.ones_like(position)
        if number > 0:
            middle = (start + spans[number - 1][1]) * scale / 2
            weight = torch.minimum(weight, (position - middle) / band + 0.5)
        if number + 1 < len(spans):
            middle = (spans[number + 1][0] + end) * scale / 2
            weight = torch.minimum(weight, (middle - position) / band + 0.5)
        ramps.append(weight.clamp(0, 1))
    return ramps


def forward_tiled(forward, lr, scale, tile, overlap):
    """Super-resolve in tiles that are blended where they overlap, in memory that depends on the tile alone.

    Args:
        forward: maps (B, C, h, w) to (B, C, h*scale, w*scale).
        lr: (B, C, H, W).
        scale: int.
        tile: side of a tile, LR pixels.
        overlap: LR pixels that neighbouring tiles share, less than half of `tile`. The result is that of the whole image
            where a quarter of it covers the receptive field.

    Returns:
        (B, C, H*scale, W*scale) on the device of lr.
    """
    if max(lr.shape[2:]) <= tile:
        return forward(lr)
    batch, colors, height, width = lr.shape
    rows, columns = _spans(height, tile, overlap), _spans(width, tile, overlap)
    sr = lr.new_zeros(batch, colors, height * scale, width * scale, dtype=torch.float32)
    row_ramps, column_ramps = _ramps(rows, scale, overlap, sr), _ramps(columns, scale, overlap, sr)
    for (top, bottom), row_ramp in zip(rows, row_ramps, strict=True):
        for (left, right), column_ramp in zip(columns, column_ramps, strict=True):
            part = forward(lr[:, :, top:bottom, left:right]).float()
            part *= row_ramp[:, None] * column_ramp
            sr[:, :, top * scale : bottom * scale, left * scale : right * scale] += part
    return sr


def transforms():
    """The 8 flips and transposes of the last two axes, each with its inverse."""
    for flips in ((), (2,), (3,), (2, 3)):
        for transpose in (False, True):

            def apply(x, flips=flips, transpose=transpose):
                x = x.flip(flips) if flips else x
                return x.transpose(2, 3) if transpose else x

            def undo(x, flips=flips, transpose=transpose):
                x = x.transpose(2, 3) if transpose else x
                return x.flip(flips) if flips else x

            yield apply, undo


class Upscaler:
    """A network with the ways of running it that the flags choose: tiles, self-ensemble, precision."""

    def __init__(self, net, *, chop=False, tile=192, overlap=64, self_ensemble=False, precision="single", log=print):
        self.net, self.chop, self.tile, self.overlap = net, chop, tile, overlap
        self.self_ensemble, self.precision, self.log = self_ensemble, precision, log

    def __call__(self, lr, scale):
        """Super-resolve lr (B, C, H, W) in [0, rgb_range] to float32 (B, C, H*scale, W*scale)."""
        if not self.self_ensemble:
            return self._once(lr, scale)
        total = 0
        for apply, undo in transforms():  # one at a time: the memory of one
            total = total + undo(self._once(apply(lr).contiguous(), scale))
        return total / 8

    def _once(self, lr, scale):
        while True:
            try:
                if self.chop:
                    return forward_tiled(lambda x: self._forward(x, scale), lr, scale, self.tile, self.overlap)
                return self._forward(lr, scale)
            except OutOfMemoryError:
                self._shrink(lr)

    def _shrink(self, lr):
        """Halve the tile after the accelerator ran out of memory; give up below 32 pixels."""
        tile = min(self.tile, max(lr.shape[2:])) // 2
        if tile < 32:
            raise
        self.chop, self.tile, self.overlap = True, tile, min(self.overlap, tile // 2 - 1)
        torch.cuda.empty_cache()
        self.log(f"out of memory: going on in tiles of {tile} pixels, {self.overlap} shared (--chop_size, --chop_overlap)")

    def _forward(self, lr, scale):
        lr = lr.contiguous(memory_format=torch.channels_last)
        with autocast(lr.device, self.precision):
            sr = self.net(lr, scale) if is_multi_scale(self.net) else self.net(lr)
        return sr.float()
