"""Run a network on images of any size, in tiles or with self-ensemble."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from model import is_multi_scale
from runtime.precision import autocast
from runtime.process import is_accelerator_out_of_memory


def _tile_ranges(length, tile, overlap):
    """Return (start, end) of tiles that cover `length` pixels and overlap by at least `overlap`."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    tile = -(-(length + (count - 1) * overlap) // count)  # no larger than their number needs
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def _blend_weights(ranges, scale, overlap, like):
    """Return each tile's weights (length * scale,) along one axis; they sum to 1."""
    # Neighbors are blended in a band of overlap / 2 LR pixels in the middle of their overlap. The
    # weight of pixels at the edge of a tile is 0, because they have the least context.
    band = max(overlap * scale / 2, 1e-3)
    weights = []
    for i, (start, end) in enumerate(ranges):
        pixels = torch.arange(start * scale, end * scale, device=like.device, dtype=like.dtype)
        position = pixels + 0.5
        weight = torch.ones_like(position)
        if i > 0:
            middle = (start + ranges[i - 1][1]) * scale / 2
            weight = torch.minimum(weight, (position - middle) / band + 0.5)
        if i + 1 < len(ranges):
            middle = (ranges[i + 1][0] + end) * scale / 2
            weight = torch.minimum(weight, (middle - position) / band + 0.5)
        weights.append(weight.clamp(0, 1))
    return weights


def _iter_tiled_rows(forward, size, scale, tile, overlap):
    """Super-resolve in tiles as `Upscaler.iter_rows`, whose memory is enough."""
    rows, columns = (_tile_ranges(length, tile, overlap) for length in size)
    ends = [top for top, _ in rows[1:]] + [size[0]]
    weights = carry = None  # carry: rows of a band that the next band overlaps
    for i, ((top, bottom), end) in enumerate(zip(rows, ends, strict=True)):
        band = None
        for j, (left, right) in enumerate(columns):
            sr = forward(top, bottom, left, right).float()
            if band is None:
                band = sr.new_zeros(*sr.shape[:2], (bottom - top) * scale, size[1] * scale)
                weights = weights or [
                    _blend_weights(ranges, scale, overlap, sr) for ranges in (rows, columns)
                ]
                if carry is not None:
                    band[:, :, : carry.shape[2]] = carry
            blend = weights[0][i][:, None] * weights[1][j]
            band[:, :, :, left * scale : right * scale] += sr * blend
        yield top, end, band[:, :, : (end - top) * scale]
        carry = band[:, :, (end - top) * scale :]


def transforms():
    """Yield the 8 flips and transposes of the last two axes, each with its inverse."""
    for axes in ((), (2,), (3,), (2, 3)):
        yield (lambda x, axes=axes: x.flip(axes),) * 2
        yield (
            lambda x, axes=axes: x.flip(axes).transpose(2, 3),
            lambda x, axes=axes: x.transpose(2, 3).flip(axes),
        )


@dataclass
class Upscaler:
    """Run a network as the flags choose: in tiles, with self-ensemble, at a precision.

    Tiles of `tile` LR pixels are blended in `overlap` LR pixels, less than half of `tile`. The
    result is that of the whole image if a quarter of the overlap covers the receptive field.
    """

    net: nn.Module
    chop: bool = False
    tile: int = 192
    overlap: int = 48
    self_ensemble: bool = False
    precision: str = "single"
    log: Callable = print

    def __call__(self, lr, scale):
        """Super-resolve lr (B, C, H, W) in [0, rgb_range] to float32 (B, C, H*scale, W*scale)."""
        height, width = lr.shape[2:]
        while not self.chop or max(height, width) <= self.tile:
            try:
                return self.forward_whole(lr, scale)
            except RuntimeError as error:
                self._shrink_tile((height, width), error, was_tiled=self.chop)

        def forward(top, bottom, left, right):
            return self.forward_whole(lr[:, :, top:bottom, left:right], scale)

        sr = None
        for top, bottom, rows in self.iter_rows(forward, (height, width), scale):
            if sr is None:
                sr = rows.new_empty(*rows.shape[:2], height * scale, width * scale)
            sr[:, :, top * scale : bottom * scale] = rows
        return sr

    def iter_rows(self, forward, size, scale, on_progress=lambda fraction: None):
        """Super-resolve in tiles, whatever `chop` is; memory depends only on tile and width.

        `forward` maps (top, bottom, left, right) in LR pixels to the SR tile by `forward_whole`.
        `on_progress` is called with the fraction of the image that a tile is; with a negative one
        if work is to be repeated. Yields (top, bottom, sr): LR rows from top to bottom, and their
        SR, float32 (B, C, (bottom - top)*scale, W*scale). After an accelerator ran out of memory,
        all rows once more from the top, in smaller tiles.
        """
        while True:
            rows, columns = (_tile_ranges(length, self.tile, self.overlap) for length in size)
            done, fraction = 0.0, 1 / (len(rows) * len(columns))

            def forward_and_count(*box, fraction=fraction):
                nonlocal done
                sr = forward(*box)
                done += fraction
                on_progress(fraction)
                return sr

            try:
                yield from _iter_tiled_rows(forward_and_count, size, scale, self.tile, self.overlap)
                return
            except RuntimeError as error:
                self._shrink_tile(size, error, was_tiled=True)
                on_progress(-done)

    def forward_whole(self, lr, scale):
        """Run the network on whole images (B, C, H, W); 8 times with --self_ensemble."""
        if not self.self_ensemble:
            return self._forward(lr, scale)
        total = 0
        for apply, undo in transforms():  # one by one, which takes the memory of one
            total = total + undo(self._forward(apply(lr).contiguous(), scale))
        return total / 8

    def _shrink_tile(self, size, error, was_tiled):
        """Use tiles after an out-of-memory error, then smaller ones; raise others, or below 32."""
        is_new = not was_tiled and self.tile < max(size)
        tile = self.tile if is_new else min(self.tile, max(size)) // 2
        if tile < 32 or not is_accelerator_out_of_memory(error):
            raise error
        self.chop, self.tile, self.overlap = True, tile, min(self.overlap, tile // 2 - 1)
        torch.cuda.empty_cache()
        self.log(
            f"out of memory: continuing in tiles of {tile} pixels with an overlap of "
            f"{self.overlap} (--chop_size, --chop_overlap)"
        )

    def _forward(self, lr, scale):
        lr = lr.contiguous(memory_format=torch.channels_last)
        with autocast(lr.device, self.precision):
            sr = self.net(lr, scale) if is_multi_scale(self.net) else self.net(lr)
        return sr.float()
