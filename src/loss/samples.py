"""Positives and negatives of PCL-SR, made from HR, LR and SR on the device.

Wu, Jiang, Liu, TNNLS 2023: sharpened HR as informative positives, blurred HR as hard negatives.
A sample set is a tensor (B, C, H, W) with one sample of each image of the batch. Random numbers
come from torch's CPU generator, which Trainer.train_step seeds in each step.
"""

import functools
from types import SimpleNamespace

import torch
from torch.nn.functional import conv2d, interpolate, pad

from data.degradation import JPEG_QUALITIES, NOISE_SIGMAS, jpeg
from data.image import to_uint8
from loss.frozen import super_resolve
from runtime.distributed import draw_for_rank
from runtime.files import UserError


def quantize(x, rgb_range):
    """Return x rounded to the steps of an 8-bit image and clamped to [0, rgb_range]."""
    return (x * (255 / rgb_range)).round().clamp(0, 255) * (rgb_range / 255)


def _gaussian(size, sigma, like):
    """Return the weights of a Gaussian kernel (size,), which sum to 1, on the device of `like`."""
    x = torch.arange(size, dtype=like.dtype) - (size - 1) / 2
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return (weights / weights.sum()).to(like.device, non_blocking=like.is_cuda)


def gaussian_blur(x, kernel_size, sigma, rgb_range):
    """Return x (B, C, H, W) blurred with a Gaussian, clamped and not rounded; reflected borders.

    `kernel_size`, odd, and `sigma` are pairs (y, x) in pixels.
    """
    channels = x.shape[1]
    (size_y, size_x), (sigma_y, sigma_x) = map(int, kernel_size), map(float, sigma)
    column, row = _gaussian(size_y, sigma_y, x), _gaussian(size_x, sigma_x, x)
    pad_y, pad_x = size_y // 2, size_x // 2
    x = pad(x, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    x = conv2d(x, column.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    x = conv2d(x, row.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return x.clamp(0, rgb_range)


def sharpen(x, factor, rgb_range):
    """Return d + factor * (x - d), clamped and not rounded, with d the smoothed x (B, C, H, W).

    In the interior, d is x under the 3x3 kernel [[1,1,1],[1,5,1],[1,1,1]] / 13; border pixels are
    those of x. `factor` (B,) sharpens above 1, and smooths below.
    """
    channels = x.shape[1]
    kernel = x.new_ones(3, 3)
    kernel[1, 1].fill_(5)  # an assignment would copy a scalar from the host
    smooth = x.clone()
    interior = conv2d(x, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    smooth[:, :, 1:-1, 1:-1] = interior
    factor = torch.as_tensor(factor).to(x, non_blocking=x.is_cuda).view(-1, 1, 1, 1)
    return (smooth + factor * (x - smooth)).clamp(0, rgb_range)


def upsample(x, size):
    """Return LR upsampled to the HR size by bicubic with aligned corners; not clamped."""
    return interpolate(x, size=size, mode="bicubic", align_corners=True)


def _uniform(low, high, count):
    return low + (high - low) * torch.rand(count)


def _uniform_per_image(low, high, count):
    """Draw a number in [low, high) for each of `count` images, independent of the ranks."""
    return draw_for_rank(count, lambda total: _uniform(low, high, total))


def _noise(x):
    """Draw normal noise (B, C, H, W), each image from its own generator."""
    seeds = draw_for_rank(len(x), lambda total: torch.randint(2**62, (total,))).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
    return noise.to(x, non_blocking=x.is_cuda)


def _jpeg(x, rgb_range):
    """Return each image of a batch after JPEG compression at a random quality."""
    images = []
    qualities = _uniform_per_image(*JPEG_QUALITIES, len(x)).int().tolist()
    for image, quality in zip(x.cpu(), qualities, strict=True):  # one copy from the device
        images.append(torch.tensor(jpeg(to_uint8(image, rgb_range), quality)).permute(2, 0, 1))
    return torch.stack(images).to(x, non_blocking=x.is_cuda) * (rgb_range / 255)


def degrade(hr, scale, blur, rgb_range):
    """Return LR (B, C, H/scale, W/scale) of hr: blurred by `blur`, downsampled, noisy, JPEG."""
    x = interpolate(blur(hr), scale_factor=1 / scale, mode="bicubic", antialias=True)
    x = x.clamp(0, rgb_range)
    sigma = _uniform(*NOISE_SIGMAS, 1).item() * rgb_range / 255
    return _jpeg((x + sigma * _noise(x)).clamp(0, rgb_range), rgb_range)


def generated(samples):
    """Return the samples without the first one, which is HR or upsampled LR itself."""
    return samples[1:]


def select(samples, only_aug, ids):
    """Return the samples that the contrastive loss compares.

    `only_aug` leaves out the first. `ids`, such as "0,2", are indices of the others; None: all.
    """
    samples = generated(samples) if only_aug else samples
    return samples if ids is None else [samples[int(i)] for i in ids.split(",")]


def require_other_images(args):
    """Raise an error if --shuffle_neg finds no other image in a part of the batch."""
    if args.shuffle_neg and args.batch_size // args.split_batch < 2:
        fix = "raise --batch_size, or lower --split_batch"
        raise UserError(f"--shuffle_neg needs other images in the batch: {fix}")


class SampleMaker:
    """Makes the positives and negatives of a batch as the flags say."""

    precision = "single"  # of the networks that make samples

    def __init__(self, args, net=None, history=None):
        """Plan the samples; `net` is for --neg_sr, `history` (of frozen.py) for --neg_history."""
        self.args, self.net, self.history = args, net, history
        if args.neg_sr and (args.only_blur or not args.random_neg):
            raise UserError("--neg_sr needs --random_neg and must not be used with --only_blur")
        side, size = min(args.patch_size // s * s for s in args.scale), max(args.blur_sizes)
        if args.use_aug and (args.random_neg or args.blur_sr) and size // 2 >= side:
            raise UserError(f"--blur_sizes {size} must be below {2 * side}, twice the patch")
        self.plan = self._plan()
        kinds = [kind for kind, _ in self.plan]
        for kind, ids in (("positives", args.pos_id), ("negatives", args.neg_id)):
            count = 1 + kinds.count(kind) - args.only_aug
            if count < 1:
                raise UserError(f"--only_aug needs --use_aug samples: the loss has no {kind}")
            if ids is not None and max(int(i) for i in ids.split(",")) >= count:
                flag = f"--{kind[:3]}_id {ids}"
                raise UserError(f"{flag} must be below {count}, the number of samples")

    def _plan(self):
        """Return (kind, function of a batch) of each generated sample, in order of the draws."""
        args, plan = self.args, []
        if args.use_aug:
            n_negatives = args.mcl_neg
            n_positives = n_negatives if args.mcl_pos is None else args.mcl_pos
            for i in range(max(n_positives, n_negatives)):
                if args.sharp_hr and i < n_positives:
                    plan.append(("positives", self._sharpened))
                if args.random_neg and i < n_negatives:
                    plan.append(("negatives", self._degraded))
            plan += [("positives", self._noisy)] * (n_positives * args.use_noise_pos)
            blurred_sr = ("negatives", lambda batch: self._random_blur(batch.sr))
            plan += [blurred_sr] * (n_negatives * args.blur_sr)
        if args.pos_teacher:
            plan.append(("positives", lambda batch: batch.teacher))
        lagged = [functools.partial(self._lagged_sr, i) for i in range(args.neg_history)]
        return plan + [("negatives", make) for make in lagged]

    @torch.no_grad()
    def __call__(self, hr, lr, sr=None, teacher=None):
        """Return (positives, negatives): lists of (B, C, H, W) without gradient.

        hr, sr (for --blur_sr) and the teacher's SR (for --pos_teacher) are (B, C, H, W), lr is
        (B, C, h, w), in [0, rgb_range]. The first positive is HR, followed by sharpened and noisy
        HR and the teacher's SR. The first negative is LR, upsampled and clamped, followed by
        degraded HR, blurred SR and SR of lagged copies. `generated` ones have 8-bit steps.
        """
        scale, rgb_range = hr.shape[-1] // lr.shape[-1], self.args.rgb_range
        batch = SimpleNamespace(hr=hr, lr=lr, sr=sr, teacher=teacher, scale=scale)
        first_negative = upsample(lr, hr.shape[-2:]).clamp(0, rgb_range)
        samples = {"positives": [hr], "negatives": [first_negative]}
        for kind, make in self.plan:
            samples[kind].append(quantize(make(batch), rgb_range))
        return samples["positives"], samples["negatives"]

    def _sharpened(self, batch):
        args = self.args
        low, high = args.sharp_value, args.sharp_value + args.sharp_range
        factor = _uniform_per_image(low, high, len(batch.hr))
        return sharpen(batch.hr, factor, args.rgb_range)

    def _noisy(self, batch):
        sigma = self.args.pos_noise_value * self.args.rgb_range / 255
        return batch.hr + _noise(batch.hr) * sigma

    def _degraded(self, batch):
        if self.args.only_blur:
            return self._random_blur(batch.hr)
        small = degrade(batch.hr, batch.scale, self._random_blur, self.args.rgb_range)
        if self.args.neg_sr and self.net is not None:
            return super_resolve(self.net, small, batch.scale, self.precision)
        return upsample(small, batch.hr.shape[-2:])

    def _lagged_sr(self, copy, batch):
        return self.history(copy, batch.lr, batch.scale, self.precision)

    def _random_blur(self, x):
        args = self.args
        sizes = [args.blur_sizes[i] for i in torch.randint(len(args.blur_sizes), (2,)).tolist()]
        return gaussian_blur(x, sizes, _uniform(*args.blur_sigma, 2).tolist(), args.rgb_range)
