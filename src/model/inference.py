"""Running a network on whole images: in tiles, and as the mean over flips and transposes."""

import torch

from model import is_multi_scale
from runtime.precision import autocast

OutOfMemoryError = getattr(
    torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError
)  # torch 2.4 has the second alone


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
        position = (
            torch.arange(start * scale, end * scale, device=like.device, dtype=like.dtype) + 0.5
        )
        weight = torch.ones_like(position)
        if number > 0:
            middle = (start + spans[number - 1][1]) * scale / 2
            weight = torch.minimum(weight, (position - middle) / band + 0.5)
        if number + 1 < len(spans):
            middle = (spans[number + 1][0] + end) * scale / 2
            weight = torch.minimum(weight, (middle - position) / band + 0.5)
        ramps.append(weight.clamp(0, 1))
    return ramps


def iter_tiled_rows(forward, size, scale, tile, overlap):
    """Super-resolve in tiles that are blended where they overlap, and give what is done from the top to the bottom.

    Memory depends on the tile and the width alone.

    Args:
        forward: maps (top, bottom, left, right) in LR pixels to the SR (B, C, h*scale, w*scale) of that tile.
        size: (height, width) of the LR image.
        scale: int.
        tile: side of a tile, LR pixels.
        overlap: LR pixels that neighbouring tiles share, less than half of `tile`. The result is that of the whole image
            where a quarter of it covers the receptive field.

    Yields:
        (top, bottom, sr): LR rows from top to bottom, and their SR, float32 (B, C, (bottom - top)*scale, W*scale).
    """
    rows, columns = _spans(size[0], tile, overlap), _spans(size[1], tile, overlap)
    ends = [top for top, _ in rows[1:]] + [size[0]]
    ramps = rest = None
    for number, ((top, bottom), end) in enumerate(zip(rows, ends, strict=True)):
        band = None
        for column, (left, right) in enumerate(columns):
            part = forward(top, bottom, left, right).float()
            if band is None:
                band = part.new_zeros(*part.shape[:2], (bottom - top) * scale, size[1] * scale)
                ramps = ramps or (
                    _ramps(rows, scale, overlap, part),
                    _ramps(columns, scale, overlap, part),
                )
                if rest is not None:
                    band[:, :, : rest.shape[2]] = rest
            band[:, :, :, left * scale : right * scale] += part * (
                ramps[0][number][:, None] * ramps[1][column]
            )
        yield top, end, band[:, :, : (end - top) * scale]
        rest = band[:, :, (end - top) * scale :]


def forward_tiled(forward, lr, scale, tile, overlap):
    """Super-resolve a whole tensor in tiles: `iter_tiled_rows` put together.

    Args:
        forward: maps (B, C, h, w) to (B, C, h*scale, w*scale).
        lr: (B, C, H, W).
        scale, tile, overlap: as in `iter_tiled_rows`.

    Returns:
        (B, C, H*scale, W*scale) on the device of the network's output.
    """
    if max(lr.shape[2:]) <= tile:
        return forward(lr)
    height, width = lr.shape[2:]
    sr = None
    parts = iter_tiled_rows(
        lambda t, b, left, right: forward(lr[:, :, t:b, left:right]),
        (height, width),
        scale,
        tile,
        overlap,
    )
    for top, bottom, band in parts:
        if sr is None:
            sr = band.new_empty(*band.shape[:2], height * scale, width * scale)
        sr[:, :, top * scale : bottom * scale] = band
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

    def __init__(
        self,
        net,
        *,
        chop=False,
        tile=192,
        overlap=64,
        self_ensemble=False,
        precision="single",
        log=print,
    ):
        self.net, self.chop, self.tile, self.overlap = net, chop, tile, overlap
        self.self_ensemble, self.precision, self.log = self_ensemble, precision, log

    def __call__(self, lr, scale):
        """Super-resolve lr (B, C, H, W) in [0, rgb_range] to float32 (B, C, H*scale, W*scale)."""
        while True:
            try:
                if self.chop:
                    return forward_tiled(
                        lambda x: self.forward_whole(x, scale), lr, scale, self.tile, self.overlap
                    )
                return self.forward_whole(lr, scale)
            except OutOfMemoryError:
                self._shrink(lr.shape[2:])

    def iter_rows(self, forward, size, scale, advance=lambda share: None):
        """Super-resolve in tiles, whatever `chop` says, and give the rows that are done: see `iter_tiled_rows`.

        Args:
            forward: maps (top, bottom, left, right) to the SR of that tile; it is to call `forward_whole`.
            size, scale: as in `iter_tiled_rows`.
            advance: called after each tile with the share of the image that it is; below 0 where work is to be done again.

        Yields:
            (top, bottom, sr) as `iter_tiled_rows`; after an accelerator ran out of memory once more from the top.
        """
        done = 0.0
        while True:
            share = 1 / (
                len(_spans(size[0], self.tile, self.overlap))
                * len(_spans(size[1], self.tile, self.overlap))
            )

            def counted(*box, share=share):
                nonlocal done
                sr = forward(*box)
                done += share
                advance(share)
                return sr

            try:
                yield from iter_tiled_rows(counted, size, scale, self.tile, self.overlap)
                return
            except OutOfMemoryError:
                self._shrink(size)
                advance(-done)
                done = 0.0

    def forward_whole(self, lr, scale):
        """Run the network on lr (B, C, H, W) as a whole, as often as --self_ensemble asks for."""
        if not self.self_ensemble:
            return self._forward(lr, scale)
        total = 0
        for apply, undo in transforms():  # one at a time: the memory of one
            total = total + undo(self._forward(apply(lr).contiguous(), scale))
        return total / 8

    def _shrink(self, size):
        """Halve the tile after the accelerator ran out of memory; give up below 32 pixels."""
        tile = min(self.tile, max(size)) // 2
        if tile < 32:
            raise
        self.chop, self.tile, self.overlap = True, tile, min(self.overlap, tile // 2 - 1)
        torch.cuda.empty_cache()
        self.log(
            f"out of memory: going on in tiles of {tile} pixels, {self.overlap} shared (--chop_size, --chop_overlap)"
        )

    def _forward(self, lr, scale):
        lr = lr.contiguous(memory_format=torch.channels_last)
        with autocast(lr.device, self.precision):
            sr = self.net(lr, scale) if is_multi_scale(self.net) else self.net(lr)
        return sr.float()
