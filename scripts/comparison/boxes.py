"""Choose where to crop: where methods differ in structure, not in noise."""

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from metric import LUMA
from runtime.files import UserError

SMOOTHING = 1.5  # pixels; removes the difference of independent noise, keeps that of edges
LARGEST_PART = 6  # the side of a chosen box is this part of the image's shorter side
SMALLEST_SIDE = 16  # pixels
BORDER_WEIGHT = 0.5  # of a box at the border; boxes half a side from it count fully


def _smooth_luma(image):
    return gaussian_filter(image.astype(np.float32) @ np.array(LUMA, np.float32), SMOOTHING)


def difference_map(images, hr=None):
    """Return (H, W): how much the methods differ at each pixel.

    Args:
        images: SR images (H, W, 3) uint8 of the methods.
        hr: HR image, or None. With it the map is the range of the methods' squared errors: high
            where one method is right and another is wrong.
    """
    lumas = [_smooth_luma(image) for image in images]
    if hr is not None:
        truth = _smooth_luma(hr)
        lumas = [(luma - truth) ** 2 for luma in lumas]
        lumas += [np.zeros_like(truth)] if len(lumas) == 1 else []
    if len(lumas) == 1:  # nothing to compare with: where the image has most structure
        fine = images[0].astype(np.float32) @ np.array(LUMA, np.float32)
        return np.abs(gaussian_filter(fine, SMOOTHING) - gaussian_filter(fine, 4 * SMOOTHING))
    return np.max(lumas, axis=0) - np.min(lumas, axis=0)


def choose_boxes(images, hr=None, count=1, side=None):
    """Return disjoint boxes (x, y, side), those where the methods differ most first.

    Args:
        images: SR images (H, W, 3) uint8.
        hr: HR image, or None.
        count: number of boxes; fewer are returned if the image has no room.
        side: pixels, or None for a sixth of the shorter side.
    """
    height, width = images[0].shape[:2]
    side = side or max(SMALLEST_SIDE, min(height, width) // LARGEST_PART)
    side = min(side, height, width)
    # mean of each box, at the box's top left corner
    means = uniform_filter(difference_map(images, hr), side, mode="constant", origin=-(side // 2))
    means = means[: height - side + 1, : width - side + 1].astype(np.float64)
    y, x = np.ogrid[: means.shape[0], : means.shape[1]]
    to_border = np.minimum(
        np.minimum(y, means.shape[0] - 1 - y), np.minimum(x, means.shape[1] - 1 - x)
    )
    inside = np.clip(to_border / max(side / 2, 1), 0, 1)
    means *= BORDER_WEIGHT + (1 - BORDER_WEIGHT) * inside
    boxes = []
    while len(boxes) < count and np.isfinite(means).any():
        top, left = np.unravel_index(means.argmax(), means.shape)
        boxes.append((int(left), int(top), side))
        y_range, x_range = (slice(max(start - side + 1, 0), start + side) for start in (top, left))
        means[y_range, x_range] = -np.inf
        if not np.isfinite(means.max()):
            break
    return boxes


def check_boxes(boxes, picture):
    """Raise UserError for a box that is not inside the picture."""
    height, width = picture.panels[-1].image.shape[:2]
    for x, y, side in boxes:
        if side < 1 or x < 0 or y < 0 or x + side > width or y + side > height:
            raise UserError(
                f"--box {x} {y} {side} must be inside {picture.name}, which is {width}x{height} "
                "pixels"
            )
