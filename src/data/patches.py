"""Training patches, drawn at random from pairs of HR and LR images.

What a sample is depends on (seed, epoch, index) alone: neither the number of workers nor a stop in between changes it.
"""

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Sampler

from data.cache import build_cache, load_mmap
from data.datasets import find_pairs
from data.image import image_size, read_image, to_channels, to_tensor
from data.resize import downsample
from runtime import distributed
from runtime.errors import UserError


def paired_lr_size(hr_size, lr_size, scale, names):
    """Give the LR size (h, w) that both images of a pair cover.

    HR may be up to scale - 1 pixels larger than LR x scale, or smaller, as MATLAB rounds LR sizes up.

    Raises:
        UserError: the sizes do not belong together; names = (hr, lr) are in the message.
    """
    if any(abs(h - low * scale) >= scale for h, low in zip(hr_size, lr_size, strict=True)):
        (hh, hw), (lh, lw) = hr_size, lr_size
        raise UserError(
            f"sizes do not match at scale {scale}: {names[0]} is {hw}x{hh}, {names[1]} is {lw}x{lh}"
        )
    return tuple(min(low, h // scale) for h, low in zip(hr_size, lr_size, strict=True))


def load_array(image):
    """Give an image as an (H, W, C) array: an array as it is, a .npy file mapped into memory, an image file decoded."""
    if isinstance(image, np.ndarray):
        return image
    return load_mmap(image) if image.suffix == ".npy" else read_image(image)


def image_hw(image):
    """Give (height, width) of what `load_array` takes, of an image file from its header."""
    if isinstance(image, np.ndarray) or image.suffix == ".npy":
        return load_array(image).shape[:2]
    return image_size(image)


class TrainDataset(Dataset):
    """Random patches of all training sets and scales; indexed by (epoch, index, number of the scale)."""

    def __init__(self, pairs, scales, patch_size, n_colors=3, augment=True, seed=1):
        """Check that pairs belong together and are not smaller than the patch.

        Args:
            pairs: for each scale, a list of (HR, LR, name): arrays or paths of image or .npy files; LR may be None.
            scales: list of int.
            patch_size: side of the HR patch in pixels; cut to a multiple of the scale.
            n_colors: 3 or 1.
            augment: flip and transpose at random.
            seed: int from 0.

        Raises:
            UserError: sizes of a pair do not match, or an image is smaller than the patch.
        """
        self.pairs, self.scales, self.n_colors, self.augment, self.seed = (
            pairs,
            scales,
            n_colors,
            augment,
            seed,
        )
        self.lr_patch = [patch_size // scale for scale in scales]
        self._order = self._draws = (None, None)
        for scale, side, triples in zip(scales, self.lr_patch, pairs, strict=True):
            for hr, lr, name in triples:
                size = image_hw(hr)
                lr_size = tuple(s // scale for s in size) if lr is None else image_hw(lr)
                names = [
                    getattr(image, "name", name) if not isinstance(image, Path) else image
                    for image in (hr, lr)
                ]
                if min(paired_lr_size(size, lr_size, scale, names)) < side:
                    width, height = size[1], size[0]
                    need = side * scale
                    raise UserError(
                        f"{name} is {width}x{height} pixels: smaller than the patch of {need}x{need} (--patch_size)"
                    )

    def __len__(self):
        return len(self.pairs[0])

    def max_sample_bytes(self):
        """Give the bytes that a sample of 8-bit colours, or of luma in 32 bits, takes at the most."""
        pixels = max(
            side**2 * (1 + scale**2) for side, scale in zip(self.lr_patch, self.scales, strict=True)
        )
        return pixels * (3 if self.n_colors == 3 else 4)

    def _image_number(self, epoch, index):
        """Every image once, in an order of its own for each pass over the set."""
        turn, position = divmod(index, len(self))
        if self._order[0] != (epoch, turn):
            rng = np.random.default_rng([self.seed, epoch, turn, 0])
            self._order = ((epoch, turn), rng.permutation(len(self)))
        return self._order[1][position]

    def _draw(self, epoch, index):
        """Five numbers in [0, 1) for a sample, from a table for 1024 of them: a generator for each would cost more."""
        block, row = divmod(index, 1024)
        if self._draws[0] != (epoch, block):
            rng = np.random.default_rng([self.seed, epoch, block, 1])
            self._draws = ((epoch, block), rng.random((1024, 5)))
        return self._draws[1][row].tolist()

    def __getitem__(self, key):
        epoch, index, scale_number = key
        scale, side = self.scales[scale_number], self.lr_patch[scale_number]
        hr_source, lr_source, name = self.pairs[scale_number][self._image_number(epoch, index)]
        down, right, *augmentation = self._draw(epoch, index)
        hr = load_array(hr_source)
        lr = downsample(hr, scale) if lr_source is None else load_array(lr_source)
        height, width = paired_lr_size(hr.shape[:2], lr.shape[:2], scale, (name, name))
        y, x = int(down * (height - side + 1)), int(right * (width - side + 1))
        lr = lr[y : y + side, x : x + side]
        hr = hr[y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        lr, hr = (to_tensor(to_channels(image, self.n_colors)) for image in (lr, hr))
        if self.augment:
            lr, hr = (
                _turn(image, *(number < 0.5 for number in augmentation)) for image in (lr, hr)
            )
        return lr, hr, name, scale


def _turn(image, flip_y, flip_x, transpose):
    axes = [axis for axis, flip in ((1, flip_y), (2, flip_x)) if flip]
    image = image.flip(axes) if axes else image
    return image.transpose(1, 2) if transpose else image


class EpochSampler(Sampler):
    """Keys of this rank's part of the batches of one epoch; each batch has one scale. Call `set_epoch` before each epoch."""

    def __init__(self, batches, batch_size, n_scales=1, seed=1):
        self.batches, self.batch_size, self.n_scales, self.seed = (
            batches,
            batch_size,
            n_scales,
            seed,
        )
        self.epoch = self.start = 0

    def set_epoch(self, epoch, start=0):
        """Choose the epoch, from 1, whose keys are given next, without those of its first `start` batches."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        return self.batches - self.start

    def __iter__(self):
        numbers = np.random.default_rng([self.seed, self.epoch, 2]).integers(
            self.n_scales, size=self.batches
        )
        first, end = distributed.rank_range(self.batch_size)
        for batch, number in enumerate(numbers.tolist()[self.start :], self.start):
            yield [(self.epoch, batch * self.batch_size + i, number) for i in range(first, end)]


def _cached(args, name, scale, found):
    """Replace the paths of a set by their decoded images, made where they are missing."""
    root = Path(args.dir_cache or Path(args.dir_data) / "cache") / name
    renew = args.ext == "sep_reset"
    hr_paths = [hr for hr, _ in found]
    hr = build_cache(hr_paths, root / "HR", rebuild=renew, title=f"{name} HR")
    if found[0][1] is None:
        lr = build_cache(
            hr_paths,
            root / f"LR_made/X{scale}",
            downscale=scale,
            rebuild=renew,
            title=f"{name} LR x{scale}",
        )
    else:
        lr = build_cache(
            [lr for _, lr in found],
            root / f"LR/X{scale}",
            rebuild=renew,
            title=f"{name} LR x{scale}",
        )
    if args.ext == "bin":
        hr, lr = ([np.load(path, allow_pickle=False) for path in paths] for paths in (hr, lr))
    return zip(hr, lr, strict=True)


def build_train_set(args, data_range, log=print):
    """Make the TrainDataset of --data_train at --scale; see `TrainDataset` and `find_pairs` for what may be raised."""
    pairs = []
    for scale in args.scale:
        triples = []
        for name in args.data_train:
            found = find_pairs(args.dir_data, name, scale, data_range)
            if found[0][1] is None:
                log(f"{name}: no LR images of scale {scale}, made by bicubic downsampling")
            names = [str(hr) for hr, _ in found]
            images = found if args.ext == "img" else _cached(args, name, scale, found)
            triples += [(hr, lr, file) for (hr, lr), file in zip(images, names, strict=True)]
        pairs.append(triples)
    return TrainDataset(
        pairs, args.scale, args.patch_size, args.n_colors, not args.no_augment, args.seed
    )
