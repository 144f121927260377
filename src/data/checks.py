"""What would spoil a result without an error: LR images that are not those of their HR images, test images trained on."""

import numpy as np

from data.image import to_channels, to_tensor
from data.patches import image_hw, load_array
from data.resize import imresize

SIDE = 64  # LR pixels of the window that is looked at
MARGIN = 2  # LR pixels around it, which its downsampling looks at
INSET = MARGIN + 1  # LR pixels to the border of the image, for the window to be shifted
MAX_DECODED = 16  # that are decoded for a check alone
SAME = 2.5  # mean difference, of 255, up to which two images of one size are the same, saved as JPEG perhaps


def _grey(image):
    """Give an image (H, W, C) as (H, W) uint8, white at 255."""
    return (image.mean(axis=2) * (255 / np.iinfo(image.dtype).max) + 0.5).astype(np.uint8)


def _busiest_window(lr):
    """Give (top, left, height, width) of the window of LR, of nine, that varies most from pixel to pixel."""
    height, width = (min(SIDE, side - 2 * INSET) for side in lr.shape[:2])
    windows = []
    for top in np.linspace(INSET, lr.shape[0] - INSET - height, 3).astype(int):
        for left in np.linspace(INSET, lr.shape[1] - INSET - width, 3).astype(int):
            window = lr[top : top + height, left : left + width].astype(np.float32)
            windows.append(
                (
                    np.abs(np.diff(window, axis=0)).mean() + np.abs(np.diff(window, axis=1)).mean(),
                    top,
                    left,
                )
            )
    return (*max(windows)[1:], height, width)


def check_alignment(hr, lr, scale):
    """Tell what speaks against an LR image having been made from an HR image.

    A window of HR, shifted by up to an LR pixel, is downsampled and compared with LR by the share of the variance that it
    leaves unexplained, so that blur, noise or another brightness of LR, which may be meant, say nothing.

    Args:
        hr: (H, W, C) uint8 or uint16.
        lr: (h, w, C) of the same kind.
        scale: int.

    Returns:
        the end of a sentence, "is ...", or None: nothing speaks against it, or there is too little to be seen.
    """
    if min(lr.shape[:2]) < 8 + 2 * INSET:
        return None
    top, left, height, width = _busiest_window(lr)
    target = _grey(lr[top : top + height, left : left + width]).astype(np.float64)
    if target.std() < 2:
        return None

    def unexplained(down, right):
        y, x = (top - MARGIN) * scale + down, (left - MARGIN) * scale + right
        bottom, end = y + (height + 2 * MARGIN) * scale, x + (width + 2 * MARGIN) * scale
        made = imresize(_grey(hr[y:bottom, x:end]), 1 / scale)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return 1 - np.corrcoef(made.ravel(), target.ravel())[0, 1] ** 2 if made.std() > 0 else 1.0

    as_it_is = unexplained(0, 0)
    if as_it_is < 1e-3:
        return None
    steps = (0, -1, 1, -scale, scale)
    least, *shift = min(
        (unexplained(down, right), down, right) for down in steps for right in steps
    )
    if least > 0.5:
        return "does not show the same as its HR image"
    if least < 0.7 * as_it_is:
        (down, right), sides = shift, (("down", "up"), ("right", "left"))
        moves = [
            f"{abs(by)} {names[by > 0]}"
            for by, names in zip((down, right), sides, strict=True)
            if by
        ]
        return f"is shifted against its HR image, by {' and '.join(moves)} (HR pixels)"
    return None


def spread(count, most):
    """Give at most `most` numbers below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def check_train_pairs(samples):
    """Look at the pairs of a TrainDataset: all that are decoded, else some; a list of sentences."""
    problems = []
    for scale, pairs in zip(samples.scales, samples.pairs, strict=True):
        files = [getattr(hr, "suffix", ".npy") != ".npy" for hr, *_ in pairs]
        for index in spread(len(pairs), MAX_DECODED if any(files) else len(pairs)):
            hr, lr, name = pairs[index]
            problem = lr is not None and check_alignment(load_array(hr), load_array(lr), scale)
            problems += [f"{name}: its LR image of scale {scale} {problem}"] if problem else []
    return problems


class TestFingerprints:
    """What test images look like: enough of each to find it among the training images, whatever its name."""

    def __init__(self):
        self.grids = {}  # {path: (size, 16x16 pixels)}

    def check_test_pairs(self, images, indices):
        """Decode the images of a TestSet with these indices, look at their pairs and keep their looks; a list of sentences.

        Raises:
            UserError: an image cannot be decoded.
        """
        problems = []
        for index in indices:
            image, (hr_path, lr_path) = images[index], images.pairs[index]
            self.grids[hr_path] = (_lasting(image.hr.shape[1:]), _grid(image.hr))
            if lr_path is not None:
                hr, lr = (
                    x.permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
                    for x in (image.hr, image.lr)
                )
                problem = check_alignment(hr, lr, images.scale)
                problems += [f"{lr_path} {problem}"] if problem else []
        return problems

    def find_leaks(self, samples):
        """Find the images that are among those of a TrainDataset; a list of sentences."""
        trained, found = {}, []
        wanted = {size for size, _ in self.grids.values()}
        for hr, _, name in samples.pairs[0]:
            size = _lasting(image_hw(hr))
            if size in wanted:
                hr = load_array(hr)
                pixels = np.ascontiguousarray(hr[np.ix_(*_places(hr.shape[:2]))])
                looks = to_tensor(to_channels(pixels, samples.n_colors)).float().mean(0).numpy()
                trained.setdefault(size, []).append((looks, name))
        for path, (size, grid) in self.grids.items():
            differences = [float(np.abs(other - grid).mean()) for other, _ in trained.get(size, [])]
            if differences and min(differences) <= min(SAME, grid.std() / 4):
                _, name = trained[size][differences.index(min(differences))]
                found.append(f"{path} is also a training image: {name}")
        return found


def _lasting(size):
    """Give the (height, width) of an image that is left whichever multiple of a scale it is cut to."""
    return tuple(side // 24 * 24 or side for side in size)


def _places(size):
    return [np.linspace(0, side - 1, 16).astype(int) for side in _lasting(size)]


def _grid(image):
    """Give 16x16 pixels of an image, a tensor (C, H, W) with white at 255, in grey."""
    rows, columns = _places(image.shape[1:])
    return image[:, rows][:, :, columns].float().mean(0).numpy()
