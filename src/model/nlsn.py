"""NLSN: Mei et al., Image Super-Resolution with Non-Local Sparse Attention, CVPR 2021.

EDSR with an attention before the blocks and after every eighth. Each pixel attends to pixels of its hash bucket
(spherical locality-sensitive hashing, section 3.2), in chunks of a fixed size (section 3.3), over several hash rounds.

Departs from the published code: images of fewer pixels than a chunk work; in eval mode the rotations come from a
generator with a fixed seed, so that an image gives the same result every time; the sort is stable, for the same reason.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from model.common import ResBlock, SRNetwork, conv
from runtime.precision import autocast_off

EVAL_SEED = 0
MAX_BUCKETS = 128
LEAST = (
    -80.0
)  # exp of less is 0 beside the largest, which is exp(0), and takes ten times as long on the CPU


class _Windows(torch.autograd.Function):
    """Each chunk of x (B, K, S, C) with the chunk before and the one after it, circular: (B, K, 3*S, C).

    A view of x with a chunk more at either end: products with it copy nothing where there is one image, as in a test. Its
    gradient is the sum of three shifted gradients, where torch's for unfold is scattered and takes up to twice as long.
    """

    @staticmethod
    def forward(ctx, x):
        size = x.shape[2]
        return (
            torch.cat([x[:, -1:], x, x[:, :1]], dim=1)
            .flatten(1, 2)
            .unfold(1, 3 * size, size)
            .transpose(2, 3)
        )

    @staticmethod
    def backward(ctx, gradient):
        before, own, after = gradient.chunk(3, dim=2)
        return own + before.roll(-1, 1) + after.roll(1, 1)


class _Permute(torch.autograd.Function):
    """x[order] of rows (N, C). `undo` is the inverse of `order`: the gradient is a gather too, where indexing would scatter."""

    @staticmethod
    def forward(ctx, x, order, undo):
        ctx.save_for_backward(order, undo)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient):
        order, undo = ctx.saved_tensors
        return _Permute.apply(gradient, undo, order), None, None


def _permute(x, order, undo):
    """Give x (B, L, C) in the order (B*L,) of its rows."""
    rows = x.flatten(0, 1)
    rows = _Permute.apply(rows, order, undo) if rows.requires_grad else rows.index_select(0, order)
    return rows.view_as(x)


class NonLocalSparseAttention(nn.Module):
    """Sparse attention over all pixels (section 3.3, equations 5 to 8)."""

    def __init__(self, n_feats, n_hashes=4, chunk_size=144, reduction=4, res_scale=1.0):
        super().__init__()
        self.n_hashes, self.chunk_size, self.res_scale = n_hashes, chunk_size, res_scale
        self.conv_match = nn.Sequential(conv(n_feats, n_feats // reduction, 3))
        self.conv_assembly = nn.Sequential(conv(n_feats, n_feats, 1))

    def _rotations(self, channels, buckets, like):
        shape = (1, channels, self.n_hashes, buckets // 2)
        generator = None if self.training else torch.Generator(like.device).manual_seed(EVAL_SEED)
        return torch.randn(shape, generator=generator, device=like.device, dtype=torch.float32)

    def _codes(self, match):
        """Hash match (B, L, C) to buckets: (B, n_hashes, L), the index of the nearest of the rotated axes."""
        length = match.shape[1]
        buckets = min(length // self.chunk_size + (length // self.chunk_size) % 2, MAX_BUCKETS)
        buckets = max(buckets, 2)
        rotations = self._rotations(match.shape[2], buckets, match)[0]  # (C, n_hashes, buckets/2)
        rotated = torch.einsum("blc,chr->bhlr", match, rotations)
        return torch.cat([rotated, -rotated], dim=-1).argmax(-1)

    def _round(self, match, value, codes):
        """Attend within the chunks of one hash round.

        Args:
            match: (B, L, C'), value: (B, L, C), codes: (B, L).

        Returns:
            result (B, L, C) and the log of each pixel's softmax denominator (B, L), in the order of the pixels.
        """
        batch, length, _ = match.shape
        size = min(self.chunk_size, length)
        padding = -length % size
        first = (
            torch.arange(batch, device=codes.device)[:, None] * length
        )  # of each image, in rows of all images
        order = (codes.argsort(dim=-1, stable=True) + first).flatten()  # (B*L,)
        undo = torch.empty_like(order).scatter_(
            0, order, torch.arange(batch * length, device=codes.device)
        )

        def chunks(x):
            rows = _permute(x, order, undo)
            rows = torch.cat([rows, rows[:, length - padding :]], dim=1) if padding else rows
            return rows.view(batch, -1, size, x.shape[-1])  # (B, K, S, C)

        queries, values = chunks(match), chunks(value)
        with autocast_off(match):
            keys = normalize(queries, p=2, dim=-1, eps=5e-5)
            scores = queries @ _Windows.apply(keys).transpose(-1, -2)  # (B, K, S, 3*S)
            largest = scores.detach().amax(-1, keepdim=True)
            scores = scores - largest if scores.requires_grad else scores.sub_(largest)
            weights = scores.clamp_(min=LEAST).exp_()
            total = weights.sum(
                -1, keepdim=True
            )  # the exp is the costliest part: softmax and its logarithm share one
            log_sum = (largest + total.log()).flatten(1, 2)[:, :length]
        result = weights @ _Windows.apply(values) / total  # (B, K, S, C)
        result = result.flatten(1, 2)[:, :length]
        return _permute(result, undo, order), _permute(log_sum, undo, order).squeeze(-1)

    def forward(self, x):
        """Map x (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        match = self.conv_match(x).flatten(2).transpose(1, 2).float()  # (B, L, C')
        value = self.conv_assembly(x).flatten(2).transpose(1, 2)  # (B, L, C)
        with autocast_off(x), torch.no_grad():
            codes = self._codes(match)
        rounds = [self._round(match, value, codes[:, i]) for i in range(self.n_hashes)]
        weights = torch.stack([log_sum for _, log_sum in rounds]).softmax(0)  # (n_hashes, B, L)
        mixed = sum(
            weight[..., None] * result for weight, (result, _) in zip(weights, rounds, strict=True)
        )
        mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return torch.add(x, mixed.to(x.dtype), alpha=self.res_scale)


class NLSN(SRNetwork):
    """See `SRNetwork` for shapes and ranges."""

    def __init__(
        self,
        *,
        scale,
        n_resblocks=32,
        n_feats=256,
        res_scale=0.1,
        n_hashes=4,
        chunk_size=144,
        n_colors=3,
        rgb_range=255,
    ):
        super().__init__(scale=scale, n_feats=n_feats, n_colors=n_colors, rgb_range=rgb_range)

        def attention():
            return NonLocalSparseAttention(n_feats, n_hashes, chunk_size, res_scale=res_scale)

        layers = [attention()]
        for number in range(1, n_resblocks + 1):
            layers.append(ResBlock(n_feats, res_scale))
            if number % 8 == 0:
                layers.append(attention())
        self.body = nn.Sequential(*layers, conv(n_feats, n_feats, 3))


def make_model(args):
    """Build NLSN from the flags."""
    return NLSN(
        scale=args.scale[0],
        n_resblocks=args.n_resblocks,
        n_feats=args.n_feats,
        res_scale=args.res_scale,
        n_hashes=args.nlsn_n_hashes,
        chunk_size=args.nlsn_chunk_size,
        n_colors=args.n_colors,
        rgb_range=args.rgb_range,
    )
