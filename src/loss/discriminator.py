"""The embedding network of PCL-SR: a discriminator whose features the contrastive loss is taken in (section III-C).

Departs from the published release: with --before_relu the features really are those before the activation, which there
was in place and overwrote them.
"""

import itertools

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from loss.wavelet import haar_high_frequencies
from runtime import distributed
from runtime.errors import UserError
from runtime.precision import autocast

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
N_LAYERS = len(WIDTHS)
SLOPE = 0.2  # of LeakyReLU


class CrossRankBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of a set of samples by the statistics of the whole set, whose images may be on several ranks."""

    def _statistics(self, x):
        """Give mean and variance (C,) of x (B, C, H, W), float32, over all ranks, and note them in the running ones."""
        own = x.mean((0, 2, 3))
        spread = (x - own.view(1, -1, 1, 1)).square().mean((0, 2, 3))
        row = torch.cat([own, spread, own.new_full((1,), x.numel() / x.shape[1])])
        rows = distributed.all_gather_batch(
            row[None], (distributed.rank(), distributed.world_size())
        )
        means, spreads, counts = rows.split(
            [len(own), len(own), 1], dim=1
        )  # (ranks, C), (ranks, C), (ranks, 1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((spreads + (means - mean).square()) * counts).sum(0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return mean, var

    def forward(self, x):
        """Normalise x (B, C, H, W), in 16 or 32 bits."""
        if distributed.world_size() == 1 or not self.training:
            return super().forward(x)
        mean, var = self._statistics(x.float())
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(1, -1, 1, 1), x.float(), scale.view(1, -1, 1, 1)).to(
            x.dtype
        )


class Discriminator(nn.Module):
    """Eight blocks of convolution, batch normalisation and LeakyReLU, and a head.

    In training mode, which the losses use always, normalisation takes the statistics of each set of images by themselves.
    """

    precision = "single"  # of the convolutions

    def __init__(self, args, patch=None):
        """Build the network.

        Args:
            args: flags: n_colors, use_wavelet, before_relu, patch_size, scale, and loss where `patch` is None.
            patch: head of 4x4 logits (patchD), else one logit an image; None takes it from --loss.

        Raises:
            UserError: the training patch is odd under --use_wavelet, or too small.
        """
        super().__init__()
        self.use_wavelet, self.before_relu = args.use_wavelet, args.before_relu
        side = args.patch_size // args.scale[0] * args.scale[0]
        if args.use_wavelet and side % 2:
            raise UserError(
                f"--use_wavelet: needs an even training patch, not {side} (--patch_size {args.patch_size})"
            )
        smallest = 32 if args.use_wavelet else 16
        if side < smallest:
            raise UserError(
                f"--patch_size {args.patch_size}: the embedding needs at least {smallest} pixels"
            )
        side = side // 2 if args.use_wavelet else side
        n_in = args.n_colors * (3 if args.use_wavelet else 1)
        blocks = []
        for n_out, stride in zip(WIDTHS, STRIDES, strict=True):
            convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
            blocks += [nn.Sequential(convolution, CrossRankBatchNorm(n_out)), nn.LeakyReLU(SLOPE)]
            n_in = n_out
            side = (side - 1) // stride + 1
        if side == 1 and args.batch_size // args.split_batch == 1:
            raise UserError(
                "--batch_size: one patch of this size has no statistics for the embedding's normalisation"
            )
        self.features = nn.Sequential(*blocks)
        patch = "patchD" in args.loss if patch is None else patch
        if patch:
            self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(n_in, 1, 1))
        else:
            self.classifier = nn.Sequential(
                nn.Flatten(),
                nn.Linear(n_in * side**2, 1024),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Linear(1024, 1),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)

    def prepare(self, x):
        """Give what the first block sees of images (B, C, H, W): their Haar high frequencies with --use_wavelet."""
        return haar_high_frequencies(x) if self.use_wavelet else x

    def embed(self, x, layers):
        """Give the features of the blocks `layers`, a list of (B, C, H, W) in 32 bits, of prepared images.

        Blocks after the last of them are not computed.
        """
        kept = [
            features for features, _ in itertools.islice(self._blocks(x, layers), max(layers) + 1)
        ]
        return [kept[number].float() for number in layers]

    def logits(self, x):
        """Give the logits of prepared images."""
        *_, (_, x) = self._blocks(x)
        return self._head(x)

    def _blocks(self, x, layers=()):
        """Yield, for each block, its features of x if it is one of `layers`, else None, and what the next block sees.

        The statistics of the normalisation are those of x, in 32 bits: each set of samples is to be an x of its own. In bf16
        the result is rounded to 16 bits, as the next convolution would do, but where it is kept as it is before the activation.
        """
        for number, (convolution, normalisation) in enumerate(self.features[::2]):
            with autocast(x.device, self.precision):
                x = convolution(x)
            kept = number in layers
            before = normalisation(x.float() if kept and self.before_relu else x)
            # in place but where the features before it are kept
            x = leaky_relu(before, SLOPE, inplace=not (kept and self.before_relu))
            yield (before if self.before_relu else x) if kept else None, x

    def _head(self, x):
        with autocast(x.device, self.precision):
            return self.classifier(x).float()

    def forward(self, x, return_features=False):
        """Give the logits of images (B, C, H, W) in [0, rgb_range]: (B, 1, 4, 4) for patchD, else (B, 1).

        With return_features: (logits, list of the features of all eight blocks).
        """
        kept, outputs = zip(*self._blocks(self.prepare(x), range(N_LAYERS)), strict=True)
        logits = self._head(outputs[-1])
        return (logits, list(kept)) if return_features else logits
