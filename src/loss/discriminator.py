"""The embedding network of PCL-SR: a discriminator whose features are compared (section III-C).

Departs from the published release: with --before_relu, features are those before the activation.
There the activation was in place and overwrote them.
"""

import itertools

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from loss.wavelet import haar_high_frequencies, require_even_patch
from runtime import distributed
from runtime.errors import UserError
from runtime.precision import autocast

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
N_LAYERS = len(WIDTHS)
SLOPE = 0.2  # of LeakyReLU


class CrossRankBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of a sample set over all ranks."""

    def _statistics(self, x):
        """Return mean and variance (C,) of x (B, C, H, W), float32, over all ranks.

        The running statistics are updated.
        """
        own_mean = x.mean((0, 2, 3))
        own_var = (x - own_mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
        row = torch.cat([own_mean, own_var, own_mean.new_full((1,), x.numel() / x.shape[1])])
        rows = distributed.all_gather_batch(
            row[None], (distributed.rank(), distributed.world_size())
        )  # (ranks, 2*C + 1)
        n_feats = len(own_mean)
        means, variances, counts = rows.split([n_feats, n_feats, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return mean, var

    def forward(self, x):
        """Return x (B, C, H, W), in 16 or 32 bits, normalized."""
        if distributed.world_size() == 1 or not self.training:
            return super().forward(x)
        mean, var = self._statistics(x.float())
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (v.view(1, -1, 1, 1) for v in (scale, shift))
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)


class Discriminator(nn.Module):
    """Eight blocks of convolution, batch normalization and LeakyReLU, and a head.

    It stays in training mode: normalization takes the statistics of each sample set by itself.
    """

    precision = "single"  # of the convolutions

    def __init__(self, args, patch=None):
        """Build the network.

        Args:
            args: flags n_colors, use_wavelet, before_relu, patch_size, scale, batch_size,
                split_batch; and loss, if `patch` is None.
            patch: True for a head of 4x4 logits (patchD), False for one logit per image; None takes
                it from --loss.

        Raises:
            UserError: the training patch is odd with --use_wavelet, or too small.
        """
        super().__init__()
        self.use_wavelet, self.before_relu = args.use_wavelet, args.before_relu
        side = self._input_side(args)
        n_in = args.n_colors * (3 if args.use_wavelet else 1)
        blocks = []
        for n_out, stride in zip(WIDTHS, STRIDES, strict=True):
            convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
            convolution.to(memory_format=torch.channels_last)
            norm = CrossRankBatchNorm(n_out)
            blocks += [nn.Sequential(convolution, norm), nn.LeakyReLU(SLOPE)]
            n_in = n_out
            side = (side - 1) // stride + 1
        if side == 1 and args.batch_size // args.split_batch == 1:
            raise UserError(
                "--batch_size must be above 1: one patch of this size has no batch statistics"
            )
        self.features = nn.Sequential(*blocks)
        patch = "patchD" in args.loss if patch is None else patch
        if patch:
            self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(n_in, 1, 1))
            self.classifier[1].to(memory_format=torch.channels_last)
        else:
            hidden = nn.Linear(n_in * side**2, 1024)
            activation = nn.LeakyReLU(SLOPE, inplace=True)
            self.classifier = nn.Sequential(nn.Flatten(), hidden, activation, nn.Linear(1024, 1))

    @staticmethod
    def _input_side(args):
        """Return the side of the input of the first block for the training patch."""
        side = args.patch_size // args.scale[0] * args.scale[0]
        if args.use_wavelet:
            require_even_patch(args, "--use_wavelet")
        smallest = 32 if args.use_wavelet else 16
        if side < smallest:
            raise UserError(
                f"--patch_size {args.patch_size} must be at least {smallest} for the embedding"
            )
        return side // 2 if args.use_wavelet else side

    def to_wavelet(self, x):
        """Return the input of the first block for images (B, C, H, W) in [0, rgb_range]."""
        return haar_high_frequencies(x) if self.use_wavelet else x

    def embed(self, x, layers):
        """Return the features of the blocks `layers`: a list of (B, C, h, w), float32.

        Args:
            x: output of `to_wavelet`.
            layers: indices of blocks, from 0. Blocks after the largest do not run.
        """
        blocks = itertools.islice(self._iter_blocks(x, layers), max(layers) + 1)
        features = [feature for feature, _ in blocks]
        return [features[i].float() for i in layers]

    def logits(self, x):
        """Return the logits of an output of `to_wavelet`: (B, 1, 4, 4) or (B, 1)."""
        *_, (_, x) = self._iter_blocks(x)
        return self._head(x)

    def _iter_blocks(self, x, layers=()):
        """Yield (features, output) of each block; features are None for blocks not in `layers`.

        Batch statistics are those of `x`, in float32: each sample set needs a call of its own. In
        bf16, outputs are bf16, except features that are returned before the activation.
        """
        for i, (convolution, norm) in enumerate(self.features[::2]):
            with autocast(x.device, self.precision):
                x = convolution(x)
            before = i in layers and self.before_relu
            normalized = norm(x.float() if before else x)
            x = leaky_relu(normalized, SLOPE, inplace=not before)  # in place would overwrite them
            yield (normalized if before else x) if i in layers else None, x

    def _head(self, x):
        with autocast(x.device, self.precision):
            return self.classifier(x).float()

    def forward(self, x, return_features=False):
        """Return the logits of images (B, C, H, W) in [0, rgb_range]: (B, 1, 4, 4) or (B, 1).

        With `return_features`: (logits, list of the features of all eight blocks).
        """
        features, outputs = zip(
            *self._iter_blocks(self.to_wavelet(x), range(N_LAYERS)), strict=True
        )
        logits = self._head(outputs[-1])
        return (logits, list(features)) if return_features else logits
