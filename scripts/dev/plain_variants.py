"""The code without each special case for speed or memory."""

import torch
from torch import nn
from torch.nn.functional import conv2d, normalize, pixel_shuffle
from torch.utils.data import DataLoader

from data import Data
from data.loader import PREFETCH, TIMEOUT, collate
from metric import K1, K2, SIGMA, TAPS
from runtime.precision import autocast_off


def shuffled_sub_pixels(self, x):
    """Compute SubPixelConv.forward with torch's pixel_shuffle."""
    return pixel_shuffle(self._conv_forward(x, self.weight, self.bias), self.factor)


def float32_output_conv(self, x):
    """Compute OutputConv.forward whose gradient is computed in float32, too."""
    with autocast_off(x):
        return nn.Conv2d.forward(self, x.to(self.weight.dtype))


def joined_windows(self, x):
    """Compute NonLocalSparseAttention._windows by a copy of each chunk and its neighbors."""
    return torch.cat([x.roll(1, 1), x, x.roll(-1, 1)], dim=2)


def indexed_rows(x, order, inverse_order):
    """Permute rows by indexing, whose gradient scatters (nlsn._permute)."""
    return x.flatten(0, 1)[order].view_as(x)


def attend_with_softmax(self, match, value, codes):
    """Compute NonLocalSparseAttention._attend_once with softmax and logsumexp: exp runs twice."""
    length = match.shape[1]
    order, inverse_order = self._sort(codes)
    queries = self._to_chunks(match, order, inverse_order)
    values = self._to_chunks(value, order, inverse_order)
    with autocast_off(match):
        keys = normalize(queries, p=2, dim=-1, eps=5e-5)
        scores = self._mask(queries @ self._windows(keys).transpose(-1, -2), length)
        log_sum = scores.logsumexp(-1, keepdim=True)
        weights = scores.softmax(-1)
    result = weights.to(values.dtype) @ self._windows(values)
    result = self._to_pixels(result, order, inverse_order, length)
    return result, self._to_pixels(log_sum, order, inverse_order, length).squeeze(-1)


def all_hash_rounds_at_once(self, x):
    """Compute NonLocalSparseAttention.forward with the hash rounds as images of one batch."""
    batch, channels, height, width = x.shape
    n_hashes = self.n_hashes
    match = self.conv_match(x).flatten(2).transpose(1, 2).float()
    value = self.conv_assembly(x).flatten(2).transpose(1, 2)
    with autocast_off(x), torch.no_grad():
        codes = self._hash(match).transpose(0, 1).flatten(0, 1)  # (n_hashes*B, L)
    match, value = match.repeat(n_hashes, 1, 1), value.repeat(n_hashes, 1, 1)
    results, log_sums = self._attend_once(match, value, codes)
    weights = log_sums.unflatten(0, (n_hashes, batch)).softmax(0)
    mixed = (weights[..., None] * results.unflatten(0, (n_hashes, batch))).sum(0)
    mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
    return torch.add(x, mixed.to(x.dtype), alpha=self.res_scale)


def unfused_layer_attention(self, maps, last_conv):
    """Compute LayerAttention.forward_fused with the mixed stack in memory, as in equation 5."""
    return last_conv(self(maps))


def stacked_gram_matrix(maps):
    """Compute the inner products of N maps from one float32 stack (han._gram_matrix)."""
    stack = torch.stack(maps, dim=1).flatten(2).float()
    return stack @ stack.transpose(1, 2)


def haar_of_pixels(x):
    """Compute the Haar bands from the four pixels of each block (haar_high_frequencies)."""
    a, b = x[..., ::2, ::2], x[..., ::2, 1::2]
    c, d = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return torch.cat([a + b - c - d, a - b + c - d, a - b - c + d], dim=-3) / 2


def normalized_similarities(anchor, others):
    """Normalize all features before the products (contrastive.similarities), for one rank."""
    anchor = normalize(anchor, dim=1)
    return torch.stack([(anchor * normalize(x, dim=1)).sum(1).mean((1, 2)) for x in others])


def update_in_a_loop(self):
    """Run EMA.update with one operation for each tensor."""
    with torch.no_grad():
        for average, value in zip(*self._floats, strict=True):
            average.lerp_(value, 1 - self.decay)
        for average, value in self._others:
            average.copy_(value)


def ssim_map_of_convolutions(x, y):
    """Compute the SSIM map with two separable convolutions (metric._ssim_map)."""
    taps = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    window = torch.exp(-0.5 * (taps / SIGMA) ** 2)
    window = (window / window.sum()).to(x.device)
    maps = torch.stack([x, y, x * x + y * y, x * y]).flatten(0, 1)[:, None]
    maps = conv2d(conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, squares, product = maps[:, 0].unflatten(0, (4, -1)).unbind()
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    mean_squares = mean_x**2 + mean_y**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
    return similarity / ((mean_squares + c1) * (squares - mean_squares + c2))


class StockLoaderData(Data):
    """Data whose workers send batches as the DataLoader does, by files in /dev/shm."""

    def _build_loader(self, args, train_set):
        super()._build_loader(args, train_set)
        workers = self.train.num_workers
        self.shared = None
        self.train = DataLoader(
            train_set,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            timeout=TIMEOUT if workers else 0,
            generator=torch.Generator(),
            worker_init_fn=self.train.worker_init_fn,
        )
