"""Checks for silent errors: misaligned LR images, and test images among the training images."""

import itertools

import numpy as np

from data.resize import imresize

WINDOW = 64  # LR pixels of the window that is compared
MARGIN = 2  # LR pixels around it, which its downsampling reads
MIN_BORDER = MARGIN + 1  # LR pixels to the border of the image, for the window to be shifted
MAX_DUPLICATE_MAE = 2.5  # mean difference, of 255, of an image and its copy, saved as JPEG perhaps


def spread_indices(count, most):
    """Return at most `most` indices below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def _unit(image):
    """Return the factor from the values of an image, uint8 or uint16, to [0, 255]."""
    return np.float32(255 / np.iinfo(image.dtype).max)


def _gray(image):
    """Return an image (H, W, C) as (H, W) uint8."""
    return (image.mean(axis=2) * _unit(image) + 0.5).astype(np.uint8)


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
    """Return the problem, "is ...", of an LR image that does not match its HR image, or None.

    Images are (H, W, C), uint8 or uint16. Those that are too small or flat are not checked. Blur,
    noise or another brightness of LR may be intended and are not reported.
    """
    if min(lr.shape[:2]) < 8 + 2 * MIN_BORDER:
        return None
    return _shift_problem(hr, lr, scale) or _color_problem(hr, lr, scale)


def _shift_problem(hr, lr, scale):
    """Compare LR with a window of HR, shifted by up to one LR pixel and downsampled."""

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

    # the measure of a shift is the share of the variance that it leaves unexplained
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
    pixels = image.astype(np.float32) * _unit(image)
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
    orders = itertools.permutations(range(3))
    errors = [np.abs(boxes - target[:, :, order]).mean() for order in orders]
    is_swapped = min(errors) <= errors[0] / 2 and errors[0] >= 2
    return "has its color channels in another order, perhaps BGR" if is_swapped else None


def differs_from_bicubic(hr, lr, scale):
    """Return whether LR is not MATLAB's bicubic downsampling of HR, judged by a window."""
    if scale == 1 or min(lr.shape[:2]) < 8 + 2 * MIN_BORDER:
        return False
    window = _best_window(lr, lambda window: float(_cut(lr, window).std()))
    made = imresize(_cut(hr, window, scale, MIN_BORDER), 1 / scale)
    made = made[MIN_BORDER:-MIN_BORDER, MIN_BORDER:-MIN_BORDER]
    # at x3, exact halves may be rounded otherwise in a window than in the image
    return bool((made != _cut(lr, window)).mean() > 0.001)


def cropped_hw(size):
    """Return (height, width) rounded so that cropping for any scale does not change it."""
    return tuple(int(side) // 24 * 24 or int(side) for side in size)


def thumbnail(image):
    """Return 16x16 pixels, gray in [0, 255], of an image (H, W, C)."""
    places = (np.linspace(0, side - 1, 16).astype(int) for side in cropped_hw(image.shape[:2]))
    return image[np.ix_(*places)].mean(axis=2, dtype=np.float32) * _unit(image)


def check_test_pairs(test_set, indices):
    """Return {path: (cropped size, thumbnail)} of images of a TestSet, and lines on bad pairs."""
    thumbnails, problems, is_bicubic = {}, [], test_set.expects_bicubic
    for i in indices:
        hr, lr = test_set.arrays(i)
        hr_path, lr_path = test_set.pairs[i]
        thumbnails[hr_path] = (cropped_hw(hr.shape[:2]), thumbnail(hr))
        if lr_path is None:
            continue
        problem = check_alignment(hr, lr, test_set.scale)
        if problem:
            problems.append(f"{lr_path} {problem}")
        elif is_bicubic and differs_from_bicubic(hr, lr, test_set.scale):
            is_bicubic = False  # reported once
            text = f"{lr_path} is not MATLAB's bicubic downsampling of its HR image: results"
            problems.append(f"{text} on {test_set.name} cannot be compared with published ones")
    return thumbnails, problems


def find_leaks(thumbnails, train_set):
    """Return sentences about test images that are among those of a TrainDataset."""
    wanted, trained, found = {size for size, _ in thumbnails.values()}, {}, []
    for i, size in enumerate(map(cropped_hw, train_set.summaries[0].sizes[:, :2])):
        if size in wanted:
            trained.setdefault(size, []).append(i)
    for path, (size, pixels) in thumbnails.items():
        if size not in trained:
            continue
        others = np.stack([train_set.thumbnail(i) for i in trained[size]])
        differences = np.abs(others - pixels).mean(axis=(1, 2))
        if differences.min() <= min(MAX_DUPLICATE_MAE, pixels.std() / 4):
            name = train_set.pairs[0][trained[size][differences.argmin()]][2]
            found.append(f"{path} is also a training image: {name} (see --hold_out)")
    return found
