"""The embedding network of PCL-SR: a discriminator whose features are compared.

Departs from the published release: with --before_relu, features are those before the activation.
There the activation was in place and overwrote them.
"""

import itertools

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from loss.normalization import CrossRankBatchNorm
from loss.stacking import batches_sets_together
from loss.wavelet import haar_high_frequencies, require_even_patch
from runtime import distributed
from runtime.files import UserError
from runtime.precision import autocast
from runtime.weight_cast import WeightCast

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
N_LAYERS = len(WIDTHS)
SLOPE = 0.2  # of LeakyReLU


class Discriminator(nn.Module):
    """Eight blocks of convolution, batch normalization and LeakyReLU, and a head.

    Normalization takes the statistics of each sample set by itself, also after eval(). The running
    statistics are in the state_dict, as in the release, but nothing reads them.
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

    def to_input(self, x):
        """Return the first block's input for images (B, C, H, W) in [0, rgb_range]."""
        return haar_high_frequencies(x) if self.use_wavelet else x

    def embed(self, x, layers):
        """Return the features of the blocks `layers`: a list of (B, C, h, w), float32.

        Args:
            x: output of `to_input`.
            layers: indices of blocks, from 0. Blocks after the largest do not run.
        """
        return [features.float() for (features,) in self._features([x], [1], layers)]

    def embed_sets(self, sets, anchor, layers):
        """Return the features of sample sets, without gradient, and of the anchor, with gradient.

        The parameters must be frozen (`requires_grad_(False)`).

        Args:
            sets: list of outputs of `to_input`, of one shape.
            anchor: output of `to_input` of the same shape.
            layers: indices of blocks, from 0.

        Returns:
            (list of `embed` of each set, `embed` of the anchor).
        """
        with self._weight_cast(anchor.device):
            if not batches_sets_together(anchor):
                with torch.no_grad():
                    features = [self.embed(x, layers) for x in sets]
                return features, self.embed(anchor, layers)
            with torch.no_grad():
                stack = torch.cat(sets)
            stacks, anchors = zip(
                *self._features([stack, anchor], [len(sets), 1], layers), strict=True
            )
            features = zip(*(x.float().chunk(len(sets)) for x in stacks), strict=True)
            return list(features), [x.float() for x in anchors]

    def _features(self, stacks, n_sets, layers):
        """Return, for each of `layers`, the features of each stack."""
        blocks = itertools.islice(self._iter_blocks(stacks, n_sets, layers), max(layers) + 1)
        features = [feature for feature, _ in blocks]
        return [features[i] for i in layers]

    def logits(self, x):
        """Return the logits of an output of `to_input`: (B, 1, 4, 4) or (B, 1)."""
        *_, (_, (x,)) = self._iter_blocks([x], [1])
        return self._head(x)

    def logits_sets(self, sets):
        """Return the `logits` of each sample set of a list.

        On several GPUs, the sets share exchanges between ranks.
        """
        if distributed.world_size() > 1 and batches_sets_together(sets[0]):
            with self._weight_cast(sets[0].device):
                *_, (_, (x,)) = self._iter_blocks([torch.cat(sets)], [len(sets)])
                return self._head(x).chunk(len(sets))
        logits = []
        # one cast for each set: WeightCast would sum the gradients of several sets in 16 bits
        for x in sets:
            with self._weight_cast(x.device):
                logits.append(self.logits(x))
        return logits

    def _weight_cast(self, device):
        """Return the context in which the weights have been cast to the precision."""
        modules = [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        return WeightCast(modules).cast(device, self.precision)

    def _iter_blocks(self, stacks, n_sets, layers=()):
        """Yield (features, outputs) of each block, lists with an item for each stack.

        Features are None for blocks not in `layers`. Batch statistics are those of each sample set,
        in float32. In bf16, outputs are bf16, except features before the activation.

        Args:
            stacks: list of sample sets joined along the batch, outputs of `to_input`.
            n_sets: how many sample sets each stack has.
            layers: indices of blocks whose features are returned.
        """
        for i, (convolution, norm) in enumerate(self.features[::2]):
            with autocast(stacks[0].device, self.precision):
                stacks = [convolution(x) for x in stacks]
            before = i in layers and self.before_relu
            stacks = [x.float() if before else x for x in stacks]
            # `norm` of a single set can be differentiated twice: the penalty of WGAN_GP needs it
            normalized = [norm(*stacks)] if sum(n_sets) == 1 else norm.forward_sets(stacks, n_sets)
            # in place would overwrite the features
            stacks = [leaky_relu(x, SLOPE, inplace=not before) for x in normalized]
            yield (normalized if before else stacks) if i in layers else None, stacks

    def _head(self, x):
        with autocast(x.device, self.precision):
            return self.classifier(x).float()

    def forward(self, x, return_features=False):
        """Return the logits of images: (B, 1, 4, 4) or (B, 1).

        The images are (B, C, H, W) in [0, rgb_range].

        With `return_features`: (logits, list of the features of all eight blocks).
        """
        blocks = list(self._iter_blocks([self.to_input(x)], [1], range(N_LAYERS)))
        logits = self._head(blocks[-1][1][0])
        return (logits, [feature for (feature,), _ in blocks]) if return_features else logits
