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

EVAL_SEED = 0
MAX_BUCKETS = 128


def _chunks_with_neighbours(x):
    """Give each chunk of x (..., K, S, C) with the chunk before and the one after it, circular: (..., K, 3*S, C)."""
    return torch.cat([x, x.roll(1, -3), x.roll(-1, -3)], dim=-2)


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
        order = codes.argsort(dim=-1, stable=True)  # (B, L)
        padding = -length % size
        padded = torch.cat([order, order[:, length - padding :]], dim=1) if padding else order

        def gather(x):
            rows = x.gather(1, padded[..., None].expand(-1, -1, x.shape[-1]))
            return rows.view(batch, -1, size, x.shape[-1])  # (B, K, S, C)

        queries, values = gather(match), gather(value)
        keys = normalize(queries, p=2, dim=-1, eps=5e-5)
        scores = queries @ _chunks_with_neighbours(keys).transpose(-1, -2)  # (B, K, S, 3*S)
        log_sum = scores.logsumexp(-1, keepdim=True)
        weights = (scores - log_sum).exp() if scores.requires_grad else scores.sub_(log_sum).exp_()
        result = weights @ _chunks_with_neighbours(values)  # (B, K, S, C)
        undo = order.argsort(dim=-1)  # (B, L)
        result = result.flatten(1, 2)[:, :length]
        log_sum = log_sum.flatten(1)[:, :length]
        return result.gather(1, undo[..., None].expand_as(result)), log_sum.gather(1, undo)

    def forward(self, x):
        """Map x (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        match = self.conv_match(x).flatten(2).transpose(1, 2).float()  # (B, L, C')
        value = self.conv_assembly(x).flatten(2).transpose(1, 2).float()  # (B, L, C)
        codes = self._codes(match)
        rounds = [self._round(match, value, codes[:, i]) for i in range(self.n_hashes)]
        weights = torch.stack([log_sum for _, log_sum in rounds]).softmax(0)  # (n_hashes, B, L)
        mixed = sum(weight[..., None] * result for weight, (result, _) in zip(weights, rounds, strict=True))
        mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return torch.add(x, mixed.to(x.dtype), alpha=self.res_scale)


class NLSN(SRNetwork):
    """See `SRNetwork` for shapes and ranges."""

    def __init__(
        self, *, scale, n_resblocks=32, n_feats=256, res_scale=0.1, n_hashes=4, chunk_size=144, n_colors=3, rgb_range=255
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
