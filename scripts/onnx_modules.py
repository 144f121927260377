"""Networks that can be exported for all image sizes, with unchanged results."""

import types

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, pixel_shuffle

from model.common import SubPixelConv
from model.nlsn import MAX_BUCKETS, NonLocalSparseAttention
from model.rcan import RCAB, ChannelAttention

MAX_HALF = MAX_BUCKETS // 2  # rotated axes of the largest image; their negatives are buckets, too


class ExportableSparseAttention(NonLocalSparseAttention):
    """NLSN's attention without a branch on the image size: hashing, sorting and chunks differ.

    The rotations of all numbers of buckets are one table; those of the size are read from it, and
    the other buckets masked. Computed indices fill the last chunk, not a slice that may be empty.
    Images with fewer pixels than a chunk have one chunk, in which the filling is masked.
    """

    def __init__(self, attention):
        nn.Module.__init__(self)
        self.conv_match, self.conv_assembly = attention.conv_match, attention.conv_assembly
        self.n_hashes, self.chunk_size = attention.n_hashes, attention.chunk_size
        self.res_scale = attention.res_scale
        self.n_rows = attention.conv_match[0].out_channels * attention.n_hashes  # of a rotation
        device = attention.conv_match[0].weight.device
        rotations = [
            attention._rotations(self.n_rows // self.n_hashes, 2 * half, device).flatten()
            for half in range(1, MAX_HALF + 1)
        ]
        self.register_buffer("rotations", torch.cat(rotations))

    def _hash(self, match):
        length = match.shape[1]
        chunks = torch.full((1,), length, dtype=torch.int64) // self.chunk_size
        half = ((chunks + 1) // 2).clamp(1, MAX_HALF)  # (1,), half the number of buckets
        offset = self.n_rows * (half * (half - 1) // 2)  # of this size's rotations in the table
        rows, columns = torch.arange(self.n_rows), torch.arange(MAX_HALF)
        index = (offset + rows[:, None] * half + columns).clamp(max=len(self.rotations) - 1)
        table = self.rotations[index].view(-1, self.n_hashes, MAX_HALF)
        missing = torch.where(columns < half, 0.0, -torch.inf)
        codes = []
        for i in range(self.n_hashes):
            rotated = match @ table[:, i]  # (B, L, MAX_HALF)
            codes.append(torch.cat([rotated + missing, -rotated + missing], dim=-1).argmax(-1))
        return torch.stack(codes, dim=1)

    def _sort(self, codes):
        batch, length = codes.shape
        pixels = torch.arange(length)
        order = (codes * length + pixels).argsort(dim=-1)  # (B, L); distinct keys: a stable sort
        return order, torch.zeros_like(order).scatter(1, order, pixels.expand(batch, -1))

    def _to_chunks(self, x, order):
        batch, length, channels = x.shape
        count = (length + self.chunk_size - 1) // self.chunk_size
        slots = torch.arange(count * self.chunk_size)
        refilled = slots - (count * self.chunk_size - length)  # the last pixels once more
        source = torch.where(slots < length, slots, refilled).clamp(min=0)
        offset = (torch.arange(batch) * length)[:, None]  # of each image's rows
        rows = (order.index_select(1, source) + offset).flatten()
        return x.flatten(0, 1)[rows].view(batch, count, self.chunk_size, channels)

    def _to_pixels(self, x, inverse_order, length):
        batch, count = x.shape[:2]
        offset = (torch.arange(batch) * (count * self.chunk_size))[:, None]
        rows = (inverse_order + offset).flatten()
        return x.flatten(0, 2)[rows].view(batch, length, x.shape[-1])

    def _windows(self, x):
        return torch.cat([x.roll(1, 1), x, x.roll(-1, 1)], dim=2)

    def _mask(self, scores, length):
        is_small = torch.full((1,), length, dtype=torch.int64) < self.chunk_size
        is_filling = torch.arange(self.chunk_size) >= length
        return scores + torch.where(is_small & is_filling, -torch.inf, 0.0).repeat(3)


def make_exportable(net):
    """Replace the modules whose code depends on sizes, in place, and return the network."""
    for module in net.modules():
        if hasattr(module, "update_params"):  # SPAN joins convolutions in each forward: once here
            module.update_params()
            module.update_params = lambda: None
        for name, child in module.named_children():
            if isinstance(child, NonLocalSparseAttention):
                setattr(module, name, ExportableSparseAttention(child))
    return net


# forward of modules by operations that pnnx converts


def _sub_pixel_conv(self, x):
    return pixel_shuffle(self._conv_forward(x, self.weight, self.bias), self.factor)


def _rcab(self, x):  # pnnx loses addcmul without a word
    conv1, relu, conv2, attention = self.body
    y = conv2(relu(conv1(x)))
    return x + y * attention(y)


def _channel_attention(self, x):
    return self.conv_du(adaptive_avg_pool2d(x, 1))


PLAIN = {SubPixelConv: _sub_pixel_conv, RCAB: _rcab, ChannelAttention: _channel_attention}


def make_plain(net):
    """Replace code that pnnx cannot convert, in place, and return the network."""
    for module in make_exportable(net).modules():
        if type(module) in PLAIN:
            module.forward = types.MethodType(PLAIN[type(module)], module)
    return net
