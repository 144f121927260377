"""Networks in a form that can be exported for all sizes: the same results without decisions that depend on a size."""

import types

import torch
from torch import nn
from torch.nn.functional import normalize

from model.han import LayerAttention
from model.nlsn import MAX_BUCKETS, NonLocalSparseAttention


class SparseAttention(nn.Module):
    """NLSN's attention with shapes that are the same expressions of the image's size whatever that size is.

    - The number of buckets depends on the size, and the rotations on that number: all of them are kept as one table, from
      which those of the size are taken, and the places of those that it lacks are masked.
    - The last chunk is filled up by indices that are computed rather than by a slice that may be empty.
    - Images of fewer pixels than a chunk have one chunk, in which what fills it up is masked.
    """

    def __init__(self, attention):
        super().__init__()
        self.match, self.assembly = attention.conv_match, attention.conv_assembly
        self.n_hashes, self.chunk_size, self.res_scale = (
            attention.n_hashes,
            attention.chunk_size,
            attention.res_scale,
        )
        self.channels = attention.conv_match[0].out_channels
        self.most = MAX_BUCKETS // 2
        like = attention.conv_match[0].weight
        rotations = [
            attention._rotations(self.channels, 2 * half, like).flatten()
            for half in range(1, self.most + 1)
        ]
        self.register_buffer("rotations", torch.cat(rotations))

    def _codes(self, match, length):
        """Hash match (B, L, C) to buckets: (n_hashes, B, L), numbered so that they sort as the network's do."""
        chunks = torch.full((1,), length, dtype=torch.int64) // self.chunk_size
        half = ((chunks + 1) // 2).clamp(1, self.most)  # (1,), half the number of buckets
        start = (
            self.channels * self.n_hashes * (half * (half - 1) // 2)
        )  # of their rotations in the table
        rows, columns = torch.arange(self.channels * self.n_hashes), torch.arange(self.most)
        index = start + rows[:, None] * half + columns
        table = self.rotations[index.clamp(max=len(self.rotations) - 1)].view(
            self.channels, self.n_hashes, self.most
        )
        absent = torch.where(columns < half, 0.0, -torch.inf)
        codes = []
        for number in range(self.n_hashes):
            rotated = match @ table[:, number]  # (B, L, most)
            codes.append(torch.cat([rotated + absent, -rotated + absent], dim=-1).argmax(-1))
        return torch.stack(codes)

    def _round(self, match, value, codes, length):
        """Attend within the chunks of one hash round: (B, L, C) and the log of each pixel's denominator (B, L)."""
        batch, size = match.shape[0], self.chunk_size
        count = (length + size - 1) // size
        pixels = torch.arange(length)
        order = (codes * length + pixels).argsort(dim=-1)  # (B, L); no two are equal
        places = torch.arange(count * size)
        source = torch.where(places < length, places, places - (count * size - length)).clamp(min=0)
        padded = order.index_select(1, source)
        before = (torch.arange(batch) * length)[:, None]  # pixels of the images before

        def gather(x):
            return x.flatten(0, 1)[(padded + before).flatten()].view(
                batch, count, size, x.shape[-1]
            )

        numbers = torch.arange(count)
        before_it = torch.where(numbers > 0, numbers - 1, count - 1)
        after_it = torch.where(numbers < count - 1, numbers + 1, 0)

        def neighbours(x):
            return torch.cat(
                [x.index_select(1, index) for index in (numbers, before_it, after_it)], dim=2
            )  # (B, K, 3*S, C)

        queries, values = gather(match), gather(value)
        keys = normalize(queries, p=2, dim=-1, eps=5e-5)
        small = torch.full((1,), length, dtype=torch.int64) < size
        absent = torch.where(small & (torch.arange(size) >= length), -torch.inf, 0.0).repeat(3)
        scores = queries @ neighbours(keys).transpose(-1, -2) + absent  # (B, K, S, 3*S)
        highest = scores.amax(-1, keepdim=True)
        exponentials = (scores - highest).exp()
        sums = exponentials.sum(-1, keepdim=True)
        result = ((exponentials / sums) @ neighbours(values)).flatten(1, 2)  # (B, K*S, C)
        log_sum = (highest + sums.log()).flatten(1)  # (B, K*S)
        undo = torch.zeros_like(order).scatter(1, order, pixels.expand(batch, -1))
        rows = (undo + (torch.arange(batch) * (count * size))[:, None]).flatten()
        result, log_sum = result.flatten(0, 1)[rows], log_sum.flatten()[rows]
        return result.view(batch, length, -1), log_sum.view(batch, length)

    def forward(self, x):
        """Map x (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        length = height * width
        match = self.match(x).flatten(2).transpose(1, 2)  # (B, L, C')
        value = self.assembly(x).flatten(2).transpose(1, 2)  # (B, L, C)
        codes = self._codes(match, length)
        rounds = [self._round(match, value, codes[i], length) for i in range(self.n_hashes)]
        weights = torch.stack([log_sum for _, log_sum in rounds]).softmax(0)  # (n_hashes, B, L)
        mixed = sum(
            weight[..., None] * result
            for weight, (result, _) in zip(weights.unbind(), rounds, strict=True)
        )
        return x + self.res_scale * mixed.transpose(1, 2).reshape(batch, channels, height, width)


def make_exportable(net):
    """Replace the parts of a network whose code depends on sizes, in place; give the network."""
    for module in net.modules():
        if isinstance(module, LayerAttention):  # `through` loops over the images of a batch
            module.through = types.MethodType(
                lambda self, maps, last_conv: last_conv(self(maps)), module
            )
        for name, child in module.named_children():
            if isinstance(child, NonLocalSparseAttention):
                setattr(module, name, SparseAttention(child))
    return net
