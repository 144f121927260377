"""Checks for silent errors: misaligned LR images, and test images among the training images."""

import contextlib
import hashlib
import itertools
import zipfile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.image import to_channels, to_tensor
from data.pairs import image_hw, load_array, paired_lr_size
from data.resize import imresize
from runtime.files import atomic_path

WINDOW = 64  # LR pixels of the window that is compared
MARGIN = 2  # LR pixels around it, which its downsampling reads
MIN_BORDER = MARGIN + 1  # LR pixels to the border of the image, for the window to be shifted
MAX_DECODED = 16  # images that are decoded only for a check
MAX_ALIGNED = 2000  # cached pairs whose alignment is checked
MAX_HEADERS = 2000  # image files whose size is read before training, if they are not cached
MAX_DUPLICATE_MAE = 2.5  # mean difference, of 255, of an image and its copy, saved as JPEG perhaps
SUMMARY_VERSION = 2  # raise it when a check or a thumbnail gives other values
NO_SIZE = -1


def spread_indices(count, most):
    """Return at most `most` indices below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


# ---------------------------------------------------------------- alignment


def _gray(image):
    """Return an image (H, W, C) as (H, W) uint8."""
    return (image.mean(axis=2) * (255 / np.iinfo(image.dtype).max) + 0.5).astype(np.uint8)


def _best_window(lr, measure):
    """Return (top, left, height, width) of the largest `measure` of nine windows of LR."""
    height, width = (min(WINDOW, side - 2 * MIN_BORDER) for side in lr.shape[:2])
    tops, lefts = (
        np.linspace(MIN_BORDER, side - MIN_BORDER - length, 3).astype(int).tolist()
        for side, length in zip(lr.shape[:2], (height, width), strict=True)
    )
    windows = [(top, left, height, width) for top in tops for left in lefts]
    return max(windows, key=measure)


def _cut(image, window, scale=1, margin=0, shift=(0, 0)):
    """Return a window of LR, with a margin, in an image of `scale` times its size, shifted."""
    top, left, height, width = window
    y, x = (top - margin) * scale + shift[0], (left - margin) * scale + shift[1]
    return image[y : y + (height + 2 * margin) * scale, x : x + (width + 2 * margin) * scale]


def check_alignment(hr, lr, scale):
    """Return the problem of an LR image that does not match its HR image.

    Blur, noise or another brightness of LR may be intended and are not reported.

    Args:
        hr: (H, W, C) uint8 or uint16.
        lr: (h, w, C) of the same kind.
        scale: int.

    Returns:
        the end of a sentence, "is ...". None without a problem, or if the image is too small
        or flat for the check.
    """
    if min(lr.shape[:2]) < 8 + 2 * MIN_BORDER:
        return None
    return _shift_problem(hr, lr, scale) or _color_problem(hr, lr, scale)


def _shift_problem(hr, lr, scale):
    """Compare LR with a window of HR, shifted by up to one LR pixel and downsampled.

    The measure is the share of the variance that it leaves unexplained.
    """

    def detail(window):
        pixels = _cut(lr, window).astype(np.float32)
        return sum(np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1))

    window = _best_window(lr, detail)
    target = _gray(_cut(lr, window)).astype(np.float64)
    if target.std() < 2:
        is_flat = _gray(lr[::2, ::2]).std() < 2 and _gray(hr[:: 2 * scale, :: 2 * scale]).std() > 10
        return "is flat, and its HR image is not" if is_flat else None

    def correlation(shift=(0, 0)):
        made = _gray(_cut(hr, window, scale, MARGIN, shift))
        made = imresize(made, 1 / scale)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return np.corrcoef(made.ravel(), target.ravel())[0, 1] if made.std() > 0 else 0.0

    unshifted = correlation()
    if 1 - unshifted**2 < 1e-3 and unshifted > 0:
        return None
    if unshifted < -(0.5**0.5):
        return "is inverted against its HR image"
    steps = (0, -1, 1, -scale, scale)
    least, down, right = min((1 - correlation((y, x)) ** 2, y, x) for y in steps for x in steps)
    if least > 0.5:
        return "does not show the same as its HR image"
    if least < 0.7 * (1 - unshifted**2):
        moves = [f"{abs(down)} {'up' if down > 0 else 'down'}"] * bool(down)
        moves += [f"{abs(right)} {'left' if right > 0 else 'right'}"] * bool(right)
        return f"is shifted against its HR image, by {' and '.join(moves)} (HR pixels)"
    return None


def _chroma(image):
    """Return the difference of each channel to their mean, in 8-bit steps."""
    pixels = image.astype(np.float32) * (255 / np.iinfo(image.dtype).max)
    return pixels - pixels.mean(axis=2, keepdims=True)


def _color_problem(hr, lr, scale):
    """Compare the colors of LR with those of HR, in the window in which HR has the most."""
    if hr.shape[2] != 3:
        return None
    lr = lr if lr.shape[2] == 3 else lr.repeat(3, axis=2)
    window = _best_window(
        lr, lambda window: np.abs(_chroma(_cut(hr, window, scale)[::scale, ::scale])).mean()
    )
    boxes = _chroma(_cut(hr, window, scale))
    boxes = boxes.reshape(window[2], scale, window[3], scale, 3).mean(axis=(1, 3))
    target = _chroma(_cut(lr, window))
    if np.abs(boxes).mean() < 3:  # about gray
        return None
    if np.abs(target).mean() < 0.1 * np.abs(boxes).mean():
        return "has no colors, and its HR image has"
    orders = list(itertools.permutations(range(3)))
    errors = [np.abs(boxes - target[:, :, order]).mean() for order in orders]
    best = int(np.argmin(errors))
    if errors[best] > errors[0] / 2 or errors[0] < 2:
        return None
    names = {(2, 1, 0): "red and blue", (1, 0, 2): "red and green", (0, 2, 1): "green and blue"}
    swapped = names.get(orders[best])
    return f"has {swapped} swapped" if swapped else "has its color channels in another order"


def differs_from_bicubic(hr, lr, scale):
    """Return whether LR is not MATLAB's bicubic downsampling of HR, judged by a window."""
    if scale == 1 or min(lr.shape[:2]) < 8 + 2 * MIN_BORDER:
        return False
    window = _best_window(lr, lambda window: float(_cut(lr, window).std()))
    made = imresize(_cut(hr, window, scale, MIN_BORDER), 1 / scale)
    made = made[MIN_BORDER:-MIN_BORDER, MIN_BORDER:-MIN_BORDER]
    # at x3, exact halves may be rounded otherwise in a window than in the image
    return bool((made != _cut(lr, window)).mean() > 0.001)


# -------------------------------------------------------------------- sizes


class PairSummary(NamedTuple):
    """Sizes, thumbnails and problems of the pairs of a training set at one scale."""

    sizes: np.ndarray  # (N, 4): height and width of HR and LR; NO_SIZE: checked when it is drawn
    thumbnails: np.ndarray | None  # (N, 16, 16) in [0, 255]; None if the images are not cached
    problems: list  # sentences


def join_summaries(summaries):
    """Return the PairSummary of the pairs of several sets, all of them cached or none."""
    sizes, thumbnails, problems = zip(*summaries, strict=True)
    is_cached = thumbnails[0] is not None
    joined = np.concatenate(thumbnails) if is_cached else None
    return PairSummary(np.concatenate(sizes), joined, [line for part in problems for line in part])


def _pair_sizes(hr, lr, scale, name):
    """Return the sizes (H, W, h, w) of HR and LR of a pair."""
    # If LR is to be made, h and w are computed from HR.
    hr_size = image_hw(hr)
    lr_size = image_hw(lr) if lr is not None else tuple(side // scale for side in hr_size)
    paired_lr_size(hr_size, lr_size, scale, (name, lr if lr is not None else name))
    return (*hr_size, *lr_size)


def summarize(pairs, scale, n_colors, is_cached=True, title=None):
    """Build the PairSummary of pairs (HR, LR or None, name).

    Of image files without a cache, a sample is read. `title` is the text of a progress bar.
    """
    sizes = np.full((len(pairs), 4), NO_SIZE, np.int32)
    thumbnails = np.zeros((len(pairs), 16, 16), np.float32) if is_cached else None
    chosen = range(len(pairs)) if is_cached else spread_indices(len(pairs), MAX_HEADERS)
    for i in tqdm(chosen, desc=title, disable=None if title else True):
        hr, lr, name = pairs[i]
        sizes[i] = _pair_sizes(hr, lr, scale, name)
        if is_cached:
            thumbnails[i] = thumbnail_of(load_array(hr), n_colors)
    problems = []
    for i in spread_indices(len(pairs), MAX_ALIGNED if is_cached else MAX_DECODED):
        hr, lr, name = pairs[i]
        problem = lr is not None and check_alignment(load_array(hr), load_array(lr), scale)
        problems += [f"{name}: its LR image of scale {scale} {problem}"] if problem else []
    return PairSummary(sizes, thumbnails, problems)


def remembered_summary(path, pairs, scale, n_colors, title):
    """Load the PairSummary of cached images; rebuild it if the images have changed."""
    names = "\n".join(f"{hr} {lr} {name}" for hr, lr, name in pairs)
    text = f"{SUMMARY_VERSION} {scale} {n_colors}\n{names}"
    key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()  # names are bytes
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), np.load(path, allow_pickle=False) as file:
        if str(file["key"]) == key:
            return PairSummary(file["sizes"], file["thumbnails"], file["problems"].tolist())
    summary = summarize(pairs, scale, n_colors, title=title)
    fields = summary._asdict() | {"problems": np.array(summary.problems, str)}
    # a cache that is shared and read-only is checked again each time
    with contextlib.suppress(OSError), atomic_path(path) as partial, open(partial, "wb") as file:
        np.savez(file, key=key, **fields)
    return summary


# -------------------------------------------------------------- duplicates


class TestFingerprints:
    """Thumbnails of test images, by which they are found among the training images."""

    __test__ = False  # not a test class of pytest

    def __init__(self):
        self.thumbnails = {}  # {path: (cropped size, 16x16 pixels)}
        self.not_bicubic = set()  # test sets that were reported

    def check_test_pairs(self, test_set, indices):
        """Check images of a TestSet, keep their thumbnails; return sentences about bad pairs."""
        problems = []
        for i in indices:
            image, (hr_path, lr_path) = test_set[i], test_set.pairs[i]
            self.thumbnails[hr_path] = (_cropped_hw(image.hr.shape[1:]), _thumbnail(image.hr))
            if lr_path is not None:
                hr, lr = (
                    x.permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
                    for x in (image.hr, image.lr)
                )
                problem = check_alignment(hr, lr, test_set.scale)
                problems += [f"{lr_path} {problem}"] if problem else []
                is_other = test_set.expects_bicubic and differs_from_bicubic(hr, lr, test_set.scale)
                if is_other and not problem and test_set not in self.not_bicubic:
                    self.not_bicubic.add(test_set)
                    problems.append(
                        f"{lr_path} is not MATLAB's bicubic downsampling of its HR image: results"
                        f" on {test_set.name} cannot be compared with published ones"
                    )
        return problems

    def find_leaks(self, train_set):
        """Return sentences about test images that are among those of a TrainDataset."""
        wanted = {size for size, _ in self.thumbnails.values()}
        trained, found = {}, []
        for i, size in enumerate(train_set.hr_sizes()):
            size = size and _cropped_hw(size)
            if size in wanted:
                trained.setdefault(size, []).append(i)
        for path, (size, thumbnail) in self.thumbnails.items():
            candidates = trained.get(size, [])
            if not candidates:
                continue
            others = np.stack([train_set.thumbnail(i) for i in candidates])
            differences = np.abs(others - thumbnail).mean(axis=(1, 2))
            if differences.min() <= min(MAX_DUPLICATE_MAE, thumbnail.std() / 4):
                name = train_set.pairs[0][candidates[differences.argmin()]][2]
                found.append(f"{path} is also a training image: {name}")
        return found


def _cropped_hw(size):
    """Return (height, width) rounded so that cropping for any scale does not change it."""
    return tuple(int(side) // 24 * 24 or int(side) for side in size)


def _sample_rows_cols(size):
    return [np.linspace(0, side - 1, 16).astype(int) for side in _cropped_hw(size)]


def _thumbnail(image):
    """Return 16x16 gray pixels of an image, a tensor (C, H, W) in [0, 255]."""
    rows, columns = _sample_rows_cols(image.shape[1:])
    return image[:, rows][:, :, columns].float().mean(0).numpy()


def thumbnail_of(array, n_colors):
    """Return the `_thumbnail` of an array (H, W, C)."""
    pixels = np.ascontiguousarray(array[np.ix_(*_sample_rows_cols(array.shape[:2]))])
    return to_tensor(to_channels(pixels, n_colors)).float().mean(0).numpy()
