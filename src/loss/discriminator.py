"""The embedding network of PCL-SR: a discriminator whose features are compared.

Departs from the release: with --before_relu, no activation in place overwrites the features.
"""

import torch
from torch import nn
from torch.nn.functional import batch_norm, leaky_relu

from loss.wavelet import haar_high_frequencies, require_even_patch
from runtime import distributed
from runtime.files import UserError
from runtime.precision import autocast

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
N_LAYERS = len(WIDTHS)
SLOPE = 0.2  # of LeakyReLU


class CrossRankBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of a sample set over all ranks.

    torch.nn.SyncBatchNorm has neither gloo nor WGAN_GP's second derivative.
    """

    def forward(self, x):
        """Return a sample set x (B, C, H, W), in 16 or 32 bits, normalized."""
        if distributed.world_size() == 1:
            # nn.BatchNorm2d would count batches, a launch each; only momentum None needs the count
            running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
            return batch_norm(x, *running, *affine, True, self.momentum, self.eps)
        wide, channels = x.float(), x.shape[1]
        own_mean = wide.mean((0, 2, 3))
        own_var = (wide - own_mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
        row = torch.cat([own_mean, own_var, own_mean.new_full((1,), x.numel() / channels)])
        offset = distributed.rank(), distributed.world_size()
        rows = distributed.all_gather_batch(row[None], offset)  # (ranks, 2*C + 1)
        means, variances, counts = rows.split([channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (v.view(1, -1, 1, 1) for v in (scale, shift))
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)


class Pool(nn.AdaptiveAvgPool2d):
    """Average pooling of (B, C, H, W) to 4x4."""

    def forward(self, x):
        if x.device.type == "mps":  # which cannot pool all sides (PyTorch issue 143864)
            return super().forward(x.cpu()).to(x.device)
        return super().forward(x)


class Discriminator(nn.Module):
    """Eight blocks of convolution, batch normalization and LeakyReLU, and a head.

    Normalization takes the statistics of each sample set by itself, also after eval(). Nothing
    reads the running statistics, which are in the state_dict as in the release.
    """

    precision = "single"  # bf16: of the convolutions. half is single: the loss is not scaled

    def __init__(self, args, patch=None):
        """Build the network; `patch`: with a head of 4x4 logits. None: if --loss names patchD."""
        super().__init__()
        self.use_wavelet, self.before_relu = args.use_wavelet, args.before_relu
        sides, smallest = {args.patch_size // scale * scale for scale in args.scale}, 16
        if args.use_wavelet:
            require_even_patch(args, "--use_wavelet")
            smallest = 32
        side = min(sides)
        if side < smallest:
            text = f"--patch_size {args.patch_size} gives HR patches of {side} pixels"
            raise UserError(f"{text}, the embedding must have at least {smallest}")
        side = side // 2 if args.use_wavelet else side  # of the input of the first block
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
            raise UserError("--batch_size must be above 1: one small patch has no batch statistics")
        self.features = nn.Sequential(*blocks)
        patch = "patchD" in args.loss if patch is None else patch
        if patch:
            self.classifier = nn.Sequential(Pool(4), nn.Conv2d(n_in, 1, 1))
            self.classifier[1].to(memory_format=torch.channels_last)
        else:
            if len(sides) > 1:
                raise UserError(f"--patch_size {args.patch_size} must be a multiple of all scales")
            hidden = nn.Linear(n_in * side**2, 1024)
            activation = nn.LeakyReLU(SLOPE, inplace=True)
            self.classifier = nn.Sequential(nn.Flatten(), hidden, activation, nn.Linear(1024, 1))

    def to_input(self, x):
        """Return the first block's input for images (B, C, H, W) in [0, rgb_range]."""
        return haar_high_frequencies(x) if self.use_wavelet else x

    def _run(self, x, layers, n_blocks=N_LAYERS):
        """Return (dict of features by block of `layers`, output of the last block)."""
        # in bf16, both are bf16, except features before the activation; statistics are float32
        features = {}
        for i, (convolution, norm) in enumerate(self.features[: 2 * n_blocks : 2]):
            with self._autocast(x):
                x = convolution(x)
            keeps_input = i in layers and self.before_relu
            x = normalized = norm(x.float() if keeps_input else x)
            x = leaky_relu(x, SLOPE, inplace=not keeps_input)  # in place would overwrite features
            if i in layers:
                features[i] = normalized if keeps_input else x
        return features, x

    def embed_sets(self, sets, layers):
        """Return the features of each sample set, an output of `to_input`, of blocks `layers`.

        A list for each set of (B, C, h, w), float32. Blocks after the largest index do not run.
        """
        runs = (self._run(x, layers, max(layers) + 1)[0] for x in sets)
        return [[features[i].float() for i in layers] for features in runs]

    def logits_sets(self, sets):
        """Return the logits of each sample set, an output of `to_input`: (B, 1, 4, 4) or (B, 1)."""
        return [self._head(self._run(x, ())[1]) for x in sets]

    def _autocast(self, x):
        return autocast(x.device, "bf16" if self.precision == "bf16" else "single")

    def _head(self, x):
        with self._autocast(x):
            return self.classifier(x).float()

    def forward(self, x, return_features=False):
        """Return the logits (B, 1, 4, 4) or (B, 1) of images (B, C, H, W) in [0, rgb_range].

        With `return_features`: (logits, list of the features of all eight blocks).
        """
        features, x = self._run(self.to_input(x), range(N_LAYERS))
        return (self._head(x), list(features.values())) if return_features else self._head(x)
