"""NLSN: Mei et al., Image Super-Resolution with Non-Local Sparse Attention, CVPR 2021.

EDSR with an attention before the blocks and after every eighth: each pixel attends to the pixels of
its hash bucket (section 3.2), in chunks of a fixed size (section 3.3), over several hash rounds.
Departs from the published code: images with fewer pixels than a chunk work. In eval mode the
rotations come from a fixed seed and the sort is stable, so an image always has the same result.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from model.common import ResBlock, SRNetwork, conv
from runtime.precision import autocast_off

EVAL_SEED = 0
MAX_BUCKETS = 128
# exp(-80) adds nothing to a sum that holds exp(0) = 1. On the CPU, exp of less is ten times slower.
MIN_LOGIT = -80.0


class _Windows(torch.autograd.Function):
    """Join each chunk (B, K, S, C) with the previous and the next: (B, K, 3*S, C), circular."""

    # The result is a view of x with one more chunk at either end, so matmuls with it copy nothing
    # for a batch of one image, as in a test. The gradient is the sum of three shifted gradients;
    # torch's gradient of unfold scatters, which takes up to twice as long.

    @staticmethod
    def forward(ctx, x):
        size = x.shape[2]
        ring = torch.cat([x[:, -1:], x, x[:, :1]], dim=1).flatten(1, 2)  # (B, (K+2)*S, C)
        return ring.unfold(1, 3 * size, size).transpose(2, 3)

    @staticmethod
    def backward(ctx, grad):
        before, own, after = grad.chunk(3, dim=2)
        return own + before.roll(-1, 1) + after.roll(1, 1)


class NonLocalSparseAttention(nn.Module):
    """Sparse attention over all pixels (section 3.3, equations 5 to 8)."""

    def __init__(self, n_feats, n_hashes=4, chunk_size=144, res_scale=1.0):
        super().__init__()
        self.n_hashes, self.chunk_size, self.res_scale = n_hashes, chunk_size, res_scale
        self.conv_match = nn.Sequential(conv(n_feats, n_feats // 4, 3))
        self.conv_assembly = nn.Sequential(conv(n_feats, n_feats, 1))
        self._eval_rotations = {}  # by number of buckets and device

    def forward(self, x):
        """Map x (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        match = self.conv_match(x).flatten(2).transpose(1, 2).float()  # (B, L, C')
        value = self.conv_assembly(x).flatten(2).transpose(1, 2)  # (B, L, C)
        with autocast_off(x), torch.no_grad():
            codes = self._hash(match)
        rounds = [self._attend_once(match, value, codes[:, i]) for i in range(self.n_hashes)]
        weights = torch.stack([log_sum for _, log_sum in rounds]).softmax(0)  # (n_hashes, B, L)
        mixed = sum(
            weight[..., None] * result
            for weight, (result, _) in zip(weights.unbind(), rounds, strict=True)
        )
        mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return torch.add(x, mixed.to(x.dtype), alpha=self.res_scale)

    def _attend_once(self, match, value, codes):
        """Attend within the chunks of one hash round: match (B, L, C'), value (B, L, C)."""
        # codes (B, L) are the buckets of pixels. Returns the result (B, L, C) and the log of each
        # pixel's softmax denominator (B, L), in pixel order.
        length = match.shape[1]
        order, inverse_order = self._sort(codes)
        queries = self._to_chunks(match, order)
        values = self._to_chunks(value, order)
        with autocast_off(match):
            keys = normalize(queries, p=2, dim=-1, eps=5e-5)
            scores = queries @ self._windows(keys).transpose(-1, -2)  # (B, K, S, 3*S)
            scores = self._mask(scores, length)
            max_score = scores.detach().amax(-1, keepdim=True)
            scores = scores - max_score if scores.requires_grad else scores.sub_(max_score)
            # exp costs the most: softmax and log-sum-exp share one
            weights = scores.clamp_(min=MIN_LOGIT).exp_()
            total = weights.sum(-1, keepdim=True)
            log_sum = max_score + total.log()
        result = weights.to(values.dtype) @ self._windows(values) / total  # (B, K, S, C)
        result = self._to_pixels(result, inverse_order, length)
        return result, self._to_pixels(log_sum, inverse_order, length).squeeze(-1)

    # The methods below are those whose code depends on the size of the image. The ONNX export
    # (scripts/onnx_modules.py) replaces them.

    def _rotations(self, channels, buckets, device):
        """Return random rotations (1, C', n_hashes, buckets/2), in eval always the same."""
        shape = (1, channels, self.n_hashes, buckets // 2)
        if self.training:
            return torch.randn(shape, device=device, dtype=torch.float32)
        key = (shape, device)
        if key not in self._eval_rotations:
            # on the CPU, because other devices draw other numbers from a seed
            generator = torch.Generator().manual_seed(EVAL_SEED)
            rotations = torch.randn(shape, generator=generator, dtype=torch.float32)
            self._eval_rotations[key] = rotations.to(device)
        return self._eval_rotations[key]

    def _hash(self, match):
        """Compute the buckets (B, n_hashes, L) of match (B, L, C'): indices of the nearest axis."""
        chunks = match.shape[1] // self.chunk_size
        buckets = max(min(chunks + chunks % 2, MAX_BUCKETS), 2)
        rotations = self._rotations(match.shape[2], buckets, match.device)[0]
        rotated = torch.einsum("blc,chr->bhlr", match, rotations)
        return torch.cat([rotated, -rotated], dim=-1).argmax(-1)

    def _sort(self, codes):
        """Return the order (B*L,) that sorts the rows of each image by bucket, and its inverse."""
        batch, length = codes.shape
        offset = torch.arange(batch, device=codes.device)[:, None] * length  # of each image's rows
        order = (codes.argsort(dim=-1, stable=True) + offset).flatten()
        rows = torch.arange(batch * length, device=codes.device)
        return order, torch.empty_like(order).scatter_(0, order, rows)

    def _to_chunks(self, x, order):
        """Sort x (B, L, C) into chunks (B, K, S, C); copies of the last rows fill up the last."""
        batch, length, channels = x.shape
        size = min(self.chunk_size, length)
        padding = -length % size
        rows = x.flatten(0, 1).index_select(0, order).view_as(x)
        rows = torch.cat([rows, rows[:, length - padding :]], dim=1) if padding else rows
        return rows.view(batch, -1, size, channels)

    def _to_pixels(self, x, inverse_order, length):
        """Undo `_to_chunks`: (B, K, S, C) to (B, L, C)."""
        x = x.flatten(1, 2)[:, :length]
        return x.flatten(0, 1).index_select(0, inverse_order).view_as(x)

    def _windows(self, x):
        """Join each chunk (B, K, S, C) with its neighbors: (B, K, 3*S, C)."""
        return _Windows.apply(x)

    def _mask(self, scores, length):
        """Return the scores. A subclass masks the pixels that only fill up the last chunk."""
        return scores


class NLSN(SRNetwork):
    """See `SRNetwork` for shapes and ranges."""

    flags = (*SRNetwork.flags, "n_resblocks", "res_scale", "nlsn_n_hashes", "nlsn_chunk_size")
    draws_add_mean_last = True

    def __init__(
        self,
        *,
        n_resblocks=32,
        n_feats=256,
        res_scale=0.1,
        nlsn_n_hashes=4,
        nlsn_chunk_size=144,
        **shared,
    ):
        attention = (n_feats, nlsn_n_hashes, nlsn_chunk_size, res_scale)

        def build_body():
            layers = []
            for i in range(n_resblocks + 1):
                layers += [ResBlock(n_feats, res_scale)] if i else []
                layers += [NonLocalSparseAttention(*attention)] if i % 8 == 0 else []
            return nn.Sequential(*layers, conv(n_feats, n_feats, 3))

        super().__init__(n_feats=n_feats, build_body=build_body, **shared)


make_model = NLSN.from_args
