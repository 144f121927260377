"""Training patches, drawn at random from pairs of HR and LR images.

A sample depends only on (seed, epoch, index). The number of workers, or a stop and a resume, do not
change it.
"""

import functools

import numpy as np
from torch.utils.data import Dataset, Sampler

from data.cache import build_cache, cache_folder
from data.checks import NO_SIZE, join_summaries, remembered_summary, summarize, thumbnail_of
from data.datasets import (
    expand_names,
    find_pairs,
    is_held_out,
    missing_lr_line,
    split_hold_out,
)
from data.degradation import DEGRADATIONS, fingerprint, image_lr, make_lr, sample_generator
from data.image import to_channels, to_tensor
from data.loader import Batch
from data.pairs import load_array, load_pair
from runtime import distributed
from runtime.files import UserError, bullet_list

BLOCK = 1024  # samples whose random numbers come from one generator: one each would cost more


class TrainDataset(Dataset):
    """Random patches of all training sets and scales; key: (epoch, index, index of the scale)."""

    def __init__(
        self,
        pairs,
        scales,
        patch_size,
        n_colors=3,
        augment=True,
        seed=1,
        summaries=None,
        degradation="BI",
    ):
        """Check that pairs belong together and are not smaller than the patch.

        Args:
            pairs: for each scale, a list of (HR, LR, name): arrays or paths of image or .npy files;
                LR may be None.
            scales: list of int.
            patch_size: side of the HR patch in pixels; cut to a multiple of the scale.
            n_colors: 3 or 1.
            augment: flip and transpose at random.
            seed: int from 0.
            summaries: for each scale, the PairSummary of its pairs; None: they are built.
            degradation: name in DEGRADATIONS, which makes LR if it is None.
        """
        self.pairs, self.scales, self.n_colors = pairs, scales, n_colors
        self.augment, self.seed, self.degradation = augment, seed, DEGRADATIONS[degradation]
        self.lr_patch = [patch_size // scale for scale in scales]
        self._order = self._table = (None, None)
        self.summaries = summaries or [
            summarize(triples, scale, n_colors)
            for scale, triples in zip(scales, pairs, strict=True)
        ]
        self._check_sizes()

    def _check_sizes(self):
        problems = []
        for scale_idx, triples in enumerate(self.pairs):
            sizes = self.summaries[scale_idx].sizes
            scale, side = self.scales[scale_idx], self.lr_patch[scale_idx]
            least = np.minimum(sizes[:, :2] // scale, sizes[:, 2:]).min(axis=1)
            for i in np.flatnonzero((least < side) & (sizes[:, 0] != NO_SIZE)):
                problems.append(self._too_small(triples[i][2], sizes[i, :2], scale_idx))
        if problems:
            count = f"{len(problems)} images are too small:" + bullet_list(problems)
            raise UserError(count if len(problems) > 1 else problems[0])

    def _too_small(self, name, size, scale_idx):
        need = self.lr_patch[scale_idx] * self.scales[scale_idx]
        return (
            f"{name} is {size[1]}x{size[0]} pixels: smaller than the patch of {need}x{need}"
            " (--patch_size)"
        )

    def __len__(self):
        return len(self.pairs[0])

    def max_sample_bytes(self):
        """Return the bytes of the largest sample, in float32 (16-bit images, luma)."""
        areas = (
            side**2 * (1 + scale**2) for side, scale in zip(self.lr_patch, self.scales, strict=True)
        )
        return max(areas) * self.n_colors * 4

    def problems(self):
        """Return the sentences of all summaries."""
        return [line for summary in self.summaries for line in summary.problems]

    def hr_sizes(self):
        """Return (height, width) of each HR image of the first scale, None if unknown."""
        sizes = self.summaries[0].sizes[:, :2].tolist()
        return [None if size[0] == NO_SIZE else tuple(size) for size in sizes]

    def thumbnail(self, index):
        """Return the 16x16 pixels in gray of an HR image of the first scale."""
        if self.summaries[0].thumbnails is not None:
            return self.summaries[0].thumbnails[index]
        return thumbnail_of(load_array(self.pairs[0][index][0]), self.n_colors)

    def _image_index(self, epoch, index):
        """Return the image index of a sample."""
        # Each pass over the set has every image once, in a new order.
        turn, position = divmod(index, len(self))
        if self._order[0] != (epoch, turn):
            rng = np.random.default_rng([self.seed, epoch, turn, 0])
            self._order = ((epoch, turn), rng.permutation(len(self)))
        return self._order[1][position]

    def _random_numbers(self, epoch, index):
        """Return five numbers in [0, 1) for a sample."""
        block, row = divmod(index, BLOCK)
        if self._table[0] != (epoch, block):
            rng = np.random.default_rng([self.seed, epoch, block, 1])
            self._table = ((epoch, block), rng.random((BLOCK, 5)))
        return self._table[1][row].tolist()

    def __getitem__(self, key):
        epoch, index, scale_idx = key
        scale, side = self.scales[scale_idx], self.lr_patch[scale_idx]
        hr_source, lr_source, name = self.pairs[scale_idx][self._image_index(epoch, index)]
        down, right, *augmentation = self._random_numbers(epoch, index)
        make = None  # LR that is drawn per sample is made after the crop
        if not self.degradation.per_sample:
            make = functools.partial(image_lr(self.degradation, scale, self.seed), path=name)
        hr, lr = load_pair(hr_source, lr_source, scale, name, make)
        height, width = (side // scale for side in hr.shape[:2])
        if min(height, width) < side:
            raise UserError(self._too_small(name, hr.shape, scale_idx))
        y, x = int(down * (height - side + 1)), int(right * (width - side + 1))
        if lr is None:
            rng = sample_generator(self.seed, epoch, index)
            lr = make_lr(self.degradation, hr, scale, rng, (y, x, side, side))
        else:
            lr = lr[y : y + side, x : x + side]
        hr = hr[y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        lr, hr = (to_tensor(to_channels(image, self.n_colors)) for image in (lr, hr))
        if self.augment:
            flags = [number < 0.5 for number in augmentation]
            lr, hr = (_augment(image, *flags) for image in (lr, hr))
        return Batch(lr, hr, name, scale)


def _augment(image, flip_y, flip_x, transpose):
    axes = [axis for axis, flip in ((1, flip_y), (2, flip_x)) if flip]
    image = image.flip(axes) if axes else image
    return image.transpose(1, 2) if transpose else image


class EpochSampler(Sampler):
    """Keys of this rank's part of each batch of an epoch; a batch has one scale.

    Call `set_epoch` before each epoch.
    """

    def __init__(self, batches, batch_size, n_scales=1, seed=1):
        self.batches, self.batch_size = batches, batch_size
        self.n_scales, self.seed = n_scales, seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch, start=0):
        """Set the epoch, from 1, and the number of its first batches to leave out."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        return self.batches - self.start

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch, 2])
        scale_indices = rng.integers(self.n_scales, size=self.batches).tolist()
        first, end = distributed.rank_range(self.batch_size)
        for batch in range(self.start, self.batches):
            scale_idx = scale_indices[batch]
            yield [(self.epoch, batch * self.batch_size + i, scale_idx) for i in range(first, end)]


# ----------------------------------------------------------------- building


def _decode_to_cache(args, name, scale, found, folder, on_make_lr):
    """Return the cache files (HR, LR) of a set's pairs; write the missing ones."""
    hr_paths = [hr for hr, _ in found]
    rebuild = args.ext == "sep_reset" and distributed.local_rank() == 0  # once on a machine
    hr = build_cache(hr_paths, folder / "HR", rebuild=rebuild, title=f"{name} HR")
    title = f"{name} LR x{scale}"
    degradation = DEGRADATIONS[args.degradation]
    if found[0][1] is None and degradation.per_sample:
        lr = [None] * len(hr)
    elif found[0][1] is None:
        code = fingerprint(args.degradation, scale, args.seed)
        target = folder / f"LR_{args.degradation}_X{scale}_{code}"
        make = image_lr(degradation, scale, args.seed)
        lr = build_cache(hr_paths, target, make, rebuild, title, on_make_lr)
    else:
        lr_paths = [lr for _, lr in found]
        target = cache_folder(args, name, lr_paths) / f"LR_X{scale}"
        lr = build_cache(lr_paths, target, rebuild=rebuild, title=title)
    return list(zip(hr, lr, strict=True))


def _load_set(args, name, scale, data_range, log):
    """Return the triples (HR, LR, name) of a training set and their PairSummary."""
    found = find_pairs(args.dir_data, name, scale, data_range, log, args.degradation)
    per_sample = DEGRADATIONS[args.degradation].per_sample
    found = [(hr, None if per_sample else lr) for hr, lr in found]
    if is_held_out(args, name):
        found, _ = split_hold_out(name, found, args.hold_out)
    folder, on_make_lr = cache_folder(args, name, [hr for hr, _ in found]), None
    if found[0][1] is None:
        at_once = per_sample or args.ext == "img"
        when = "for each patch" if at_once else f"once, and kept in {folder}"
        line, is_warning = missing_lr_line(args, name, scale, when)
        if is_warning or at_once:
            log(line)
        else:
            on_make_lr = functools.partial(log, line)
    names = [str(hr) for hr, _ in found]
    if args.ext == "img":
        triples = [(*pair, file) for pair, file in zip(found, names, strict=True)]
        return triples, summarize(triples, scale, args.n_colors, is_cached=False)
    cached = _decode_to_cache(args, name, scale, found, folder, on_make_lr)
    triples = [(*pair, file) for pair, file in zip(cached, names, strict=True)]
    path = folder / f"pairs_{args.degradation}_X{scale}_c{args.n_colors}.npz"
    summary = remembered_summary(path, triples, scale, args.n_colors, f"checking {name} x{scale}")
    if args.ext == "bin":
        triples = [
            (*(path and np.load(path, allow_pickle=False) for path in pair), file)
            for *pair, file in triples
        ]
    return triples, summary


def build_train_set(args, data_range, log=print):
    """Build the TrainDataset of --data_train; for errors see `TrainDataset` and `find_pairs`."""
    pairs, summaries = [], []
    for scale in args.scale:
        loaded = [
            _load_set(args, name, scale, data_range, log)
            for name in expand_names(args.dir_data, args.data_train)
        ]
        pairs.append([triple for triples, _ in loaded for triple in triples])
        summaries.append(join_summaries([summary for _, summary in loaded]))
    settings = args.scale, args.patch_size, args.n_colors, not args.no_augment, args.seed
    return TrainDataset(pairs, *settings, summaries, args.degradation)
