"""Training patches, drawn at random from pairs of HR and LR images.

A sample depends only on (seed, epoch, index): workers, a stop and a resume do not change it.
"""

import functools

import numpy as np
from torch.utils.data import Dataset, Sampler

from data.cache import cache_folder, cache_pairs
from data.checks import thumbnail
from data.datasets import expand_names, find_pairs, missing_lr_line, split_hold_out
from data.degradation import degradation_of, fingerprint, image_lr, make_lr, sample_generator
from data.image import to_channels, to_tensor
from data.loader import Batch
from data.pairs import NO_SIZE, PairSummary, load_array, load_pair, summarize_sample
from runtime import distributed
from runtime.files import UserError, bullet_list

BLOCK = 1024  # samples whose random numbers come from one generator: one each would cost more

_in_memory = functools.cache(lambda path: load_array(path).copy())  # scales share HR


class TrainDataset(Dataset):
    """Random patches of all training sets and scales; key: (epoch, index, index of the scale)."""

    def __init__(self, args, pairs, summaries):
        """Check that no image is smaller than the patch, which is cut to a multiple of the scale.

        `pairs` are, for each scale, a list of (HR, LR, name): arrays or paths of image or .npy
        files. LR that is None is made. `summaries` are the PairSummary of each scale.
        """
        self.pairs, self.summaries, self.scales = pairs, summaries, args.scale
        self.n_colors, self.augment, self.seed = args.n_colors, not args.no_augment, args.seed
        self.degradation = degradation_of(args.degradation)
        self.lr_patch = [args.patch_size // scale for scale in args.scale]
        self._order = self._table = (None, None)
        problems = []
        for scale_idx, scale in enumerate(self.scales):
            sizes, side = summaries[scale_idx].sizes, self.lr_patch[scale_idx]
            least = np.minimum(sizes[:, :2] // scale, sizes[:, 2:]).min(axis=1)
            for i in np.flatnonzero((least < side) & (sizes[:, 0] != NO_SIZE)):
                problems.append(self._too_small(pairs[scale_idx][i][2], sizes[i], scale_idx))
        if problems:
            count = f"{len(problems)} images are too small:" + bullet_list(problems)
            raise UserError(count if len(problems) > 1 else problems[0])

    def _too_small(self, name, size, scale_idx):
        need = self.lr_patch[scale_idx] * self.scales[scale_idx]
        text = f"{name} is {size[1]}x{size[0]} pixels: smaller than the patch of {need}x{need}"
        return f"{text} (--patch_size)"

    def __len__(self):
        return len(self.pairs[0])

    def max_sample_bytes(self):
        """Return the bytes of the largest sample, in float32 (16-bit images, luma)."""
        sides = zip(self.lr_patch, self.scales, strict=True)
        return max(side**2 * (1 + scale**2) for side, scale in sides) * self.n_colors * 4

    def thumbnail(self, index):
        """Return the `thumbnail` of an HR image of the first scale."""
        thumbnails = self.summaries[0].thumbnails
        if thumbnails is None:
            return thumbnail(load_array(self.pairs[0][index][0]))
        return thumbnails[index]

    def _image_index(self, epoch, index):
        """Return the image of a sample: each pass over the set has every image, in a new order."""
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
            make = functools.partial(
                image_lr, path=name, degradation=self.degradation, scale=scale, seed=self.seed
            )
        hr, lr = load_pair(hr_source, lr_source, scale, (name, name), make)
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
    """Keys of this rank's part of each batch of an epoch (`set_epoch`); a batch has one scale."""

    def __init__(self, batches, batch_size, n_scales=1, seed=1):
        self.batches, self.batch_size = batches, batch_size
        self.n_scales, self.seed = n_scales, seed

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


def _load_set(args, name, scale, data_range, log):
    """Return the triples (HR, LR or None, name) of a training set, and their PairSummary."""
    found = find_pairs(args.dir_data, name, scale, data_range, log, args.degradation)
    found = split_hold_out(args, name, found)[0]
    degradation = degradation_of(args.degradation)
    found = [(hr, None if degradation.per_sample else lr) for hr, lr in found]
    folder = cache_folder(args, name, [hr for hr, _ in found])
    if found[0][1] is not None:
        lr_folder = cache_folder(args, name, [lr for _, lr in found]) / f"LR_X{scale}"
    else:
        code = fingerprint(args.degradation, scale, args.seed)
        lr_folder = folder / f"LR_{args.degradation}_X{scale}_{code}"
        is_kept = args.ext != "img" and not degradation.per_sample
        when = f"once, and kept in {folder}" if is_kept else "for each patch"
        line = missing_lr_line(args, name, scale, when)
        if line.startswith("WARNING") or not is_kept or not lr_folder.exists():
            log(line)
    if args.ext == "img":
        return [(*pair, str(pair[0])) for pair in found], summarize_sample(found, scale)
    lr_folder = None if degradation.per_sample else lr_folder
    make = functools.partial(image_lr, degradation=degradation, scale=scale, seed=args.seed)
    rebuild = args.ext == "sep_reset" and distributed.local_rank() == 0  # once on a machine
    title = f"{name} x{scale}"
    triples, summary = cache_pairs(found, scale, folder / "HR", lr_folder, make, rebuild, title)
    if args.ext == "bin":
        triples = [(_in_memory(hr), lr and _in_memory(lr), file) for hr, lr, file in triples]
    return triples, summary


def build_train_set(args, data_range, log=print):
    """Build the TrainDataset of --data_train."""
    pairs, summaries = [], []
    for scale in args.scale:
        names = expand_names(args.dir_data, args.data_train)
        loaded = [_load_set(args, name, scale, data_range, log) for name in names]
        pairs.append([triple for triples, _ in loaded for triple in triples])
        sizes, thumbnails, problems = zip(*(summary for _, summary in loaded), strict=True)
        thumbnails = None if args.ext == "img" else np.concatenate(thumbnails)
        problems = [line for part in problems for line in part]
        summaries.append(PairSummary(np.concatenate(sizes), thumbnails, problems))
    return TrainDataset(args, pairs, summaries)
