"""Crops of several methods side by side, as papers print them; curves and gains."""

import math
import textwrap
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from checkpoint.metrics import tests_of_training
from comparison.gains import Group, gain_over
from comparison.runs import printable
from comparison.tables import pairs_of
from metric import LUMA
from runtime.files import UserError, atomic_path

# sizes in inches, at the natural width of a figure
CROP, GAP, MARGIN = 1.9, 0.08, 0.05
DPI, DPI_OF_CURVES = 100, 110
DPI_OF_VECTORS = 300  # of the images in vector formats, which are printed and zoomed into
FONT, FONT_OF_WIDTH, SMALLEST_FONT = 10, 8, 6  # points; --width is the width on paper
CHARACTER_WIDTH, LINE_HEIGHT = 0.55, 1.4  # of the font size
COLORS = ("red", "#0072b2", "#009e73", "#e69f00")  # of boxes; distinct for color-blind readers
FONTS = {
    "serif": ["Times New Roman", "Liberation Serif", "STIXGeneral"],
    "sans-serif": ["DejaVu Sans"],
    "monospace": ["DejaVu Sans Mono"],
}
VECTOR_FORMATS = (".pdf", ".svg", ".eps", ".ps")

# ------------------------------------------------------------------ boxes

SMOOTHING = 1.5  # pixels; removes the difference of independent noise, keeps that of edges
LARGEST_PART = 6  # the side of a chosen box is this part of the image's shorter side
SMALLEST_SIDE = 16  # pixels
BORDER_WEIGHT = 0.5  # of a box at the border; boxes half a side from it count fully


def _smooth_luma(image, smoothing=SMOOTHING):
    return gaussian_filter(image.astype(np.float32) @ np.array(LUMA, np.float32), smoothing)


def difference_map(images, hr=None):
    """Return (H, W): how much SR images (H, W, 3) differ at each pixel in structure, not in noise.

    With HR it is the range of their squared errors: high where one is right and another is wrong.
    """
    lumas = [_smooth_luma(image) for image in images]
    if hr is not None:
        truth = _smooth_luma(hr)
        lumas = [(luma - truth) ** 2 for luma in lumas]
        lumas += [np.zeros_like(truth)] if len(lumas) == 1 else []
    elif len(lumas) == 1:  # nothing to compare with: where the image has most structure
        return np.abs(lumas[0] - _smooth_luma(images[0], 4 * SMOOTHING))
    return np.ptp(lumas, axis=0)


def choose_boxes(images, hr=None, count=1):
    """Return disjoint boxes (x, y, side), as many as fit, where SR images (H, W, 3) differ most."""
    height, width = images[0].shape[:2]
    side = min(max(SMALLEST_SIDE, min(height, width) // LARGEST_PART), height, width)
    # mean of each box, at the box's top left corner
    means = uniform_filter(difference_map(images, hr), side, mode="constant", origin=-(side // 2))
    means = means[: height - side + 1, : width - side + 1].astype(np.float64)
    to_ends = [np.minimum(np.arange(n), np.arange(n)[::-1]) for n in means.shape]
    to_border = np.minimum.outer(*to_ends)
    inside = np.clip(to_border / max(side / 2, 1), 0, 1)
    means *= BORDER_WEIGHT + (1 - BORDER_WEIGHT) * inside
    boxes = []
    while len(boxes) < count and np.isfinite(means.max()):
        top, left = np.unravel_index(means.argmax(), means.shape)
        boxes.append((int(left), int(top), side))
        y_range, x_range = (slice(max(start - side + 1, 0), start + side) for start in (top, left))
        means[y_range, x_range] = -np.inf
    return boxes


# ------------------------------------------------------------------ layout


class Tile(NamedTuple):
    """An image at its place in a figure; left, top, width and height in inches."""

    left: float
    top: float
    width: float
    height: float
    image: np.ndarray
    text: str = ""
    points: float = FONT
    boxes: list = ()  # of (x, y, side, color), drawn into the image


def _fit_text(width, texts, largest):
    """Return (points, texts) that fit a width in inches; the smallest text is broken into lines."""
    longest = max(len(line) for text in texts for line in text.split("\n"))
    points = width * 72 / (CHARACTER_WIDTH * max(longest, 1))
    points = min(largest, max(points, SMALLEST_FONT))
    n_characters = max(1, int(width * 72 / (CHARACTER_WIDTH * points) + 1e-6))
    lines = ([textwrap.fill(line, n_characters) for line in text.split("\n")] for text in texts)
    return points, ["\n".join(text) for text in lines]


def _layout(picture, boxes, top, width=None, largest=FONT):
    """Return (tiles, height, width) of a picture and its crops; width None is the natural width.

    With one box, four or more crops stand in two rows. With several boxes, each has a row, and
    labels stand below the last row.
    """
    n_panels, n_boxes = len(picture.panels), len(boxes)
    several = n_boxes > 1
    rows = n_boxes if several else 1 if n_panels < 4 else 2
    columns = n_panels if several else math.ceil(n_panels / rows)
    overview = picture.panels[-1].image
    aspect = min(overview.shape[1] / overview.shape[0], 1.8)
    label, crop = 0.42, CROP
    for _ in range(3):  # the height of labels depends on the size of crops, and that on labels
        between = (rows - 1) * (GAP if several else label)
        if width is not None:
            crop = (width - columns * GAP - aspect * between) / (aspect * rows + columns)
        if crop < 0.2:
            raise UserError(f"--width {width + 2 * MARGIN:g} is too small for {n_panels} crops")
        high = rows * crop + between
        whole = high * aspect
        title_points, (title,) = _fit_text(whole, [picture.title], largest)
        points, texts = _fit_text(crop, [panel.text for panel in picture.panels], largest)
        heights = [title_points * (title.count("\n") + 1)]
        heights += [points * (text.count("\n") + 1) for text in texts]
        label = max(heights) * LINE_HEIGHT / 72 + 0.07
    colors = [COLORS[i % len(COLORS)] for i in range(n_boxes)]
    drawn = [(*box, color) for box, color in zip(boxes, colors, strict=True)]
    tiles = [Tile(MARGIN, top, whole, high, overview, title, title_points, drawn)]
    for i, (x, y, side) in enumerate(boxes):
        frame = [(0, 0, side, colors[i])] if several else []
        for k, panel in enumerate(picture.panels):
            row, column = (i, k) if several else divmod(k, columns)
            left = MARGIN + whole + GAP + column * (GAP + crop)
            down = top + row * (crop + (GAP if several else label))
            text = "" if several and i + 1 < n_boxes else texts[k]
            image = panel.image[y : y + side, x : x + side]
            tiles.append(Tile(left, down, crop, crop, image, text, points, frame))
    return tiles, high + label, whole + columns * (GAP + crop)


def _draw_tile(figure, tile, dpi):
    from matplotlib.patches import Rectangle  # matplotlib takes a second to load

    width, height = figure.get_size_inches()
    bottom = 1 - (tile.top + tile.height) / height
    place = (tile.left / width, bottom, tile.width / width, tile.height / height)
    axis = figure.add_axes(place)
    # if an image has more pixels than dots, averaging avoids aliasing
    is_smaller = tile.image.shape[1] > tile.width * dpi
    axis.imshow(tile.image, interpolation="hanning" if is_smaller else "nearest", aspect="auto")
    axis.set_axis_off()
    for x, y, side, color in tile.boxes:
        look = {"fill": False, "edgecolor": color, "linewidth": 1.5, "clip_on": False}
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, **look))
    x, y = (tile.left + tile.width / 2) / width, bottom - 0.04 / height
    figure.text(x, y, tile.text, ha="center", va="top", fontsize=tile.points)


def require_drawable(path, font):
    """Return the installed font of --font; raise UserError if it or the format is unknown."""
    from matplotlib import font_manager  # matplotlib takes a second to load
    from matplotlib.figure import Figure

    if path.suffix[1:] not in Figure().canvas.get_supported_filetypes():
        raise UserError(f"{path}: {path.suffix!r} must be a format of pictures, as .png")
    installed = set(font_manager.get_font_names())
    found = [name for name in FONTS.get(font, [font]) if name in installed]
    if not found:
        names = ", ".join(FONTS)
        raise UserError(f"--font {font} must be {names} or the name of an installed font")
    return found[0]


def draw(path, strips, dpi=None, width=None, font="sans-serif"):
    """Draw (Picture, its boxes) below each other, in a width that fits crops of 1.9 inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from checkpoint.plot import style

    family = require_drawable(path, font)
    largest = FONT_OF_WIDTH if width else FONT
    if width is None and len(strips) > 1:
        width = max(_layout(*strip, 0)[2] for strip in strips) + 2 * MARGIN
    inner = width - 2 * MARGIN if width else None
    tiles, top, right = [], MARGIN, 0.0
    for strip in strips:
        placed, high, wide = _layout(*strip, top, inner, largest)
        tiles, top, right = tiles + placed, top + high, max(right, wide)
    dpi = dpi or (DPI_OF_VECTORS if path.suffix in VECTOR_FORMATS else DPI)
    with rc_context(style(family)):
        figure = Figure((right + 2 * MARGIN, top + MARGIN))
        for tile in tiles:
            _draw_tile(figure, tile, dpi)
        _save(figure, path, dpi)


def _save(figure, path, dpi):
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix[1:])


def boxes_of(picture, options):
    """Return the boxes of --box, or those that are chosen."""
    if not options.box:
        return choose_boxes(picture.compared, picture.hr, options.boxes)
    height, width = picture.panels[-1].image.shape[:2]
    for x, y, side in options.box:
        if side < 1 or x < 0 or y < 0 or x + side > width or y + side > height:
            size = f"{width}x{height} pixels"
            raise UserError(f"--box {x} {y} {side} must be inside {picture.name}, which is {size}")
    return options.box


def draw_pictures(pictures, options):
    """Draw pictures into the file --figure, or each into its own file NAME_IMAGE; return paths."""
    path, strips = options.figure, [(p, boxes_of(p, options)) for p in pictures]
    files = {path: strips}
    if len(strips) > 1 and not options.one_file:
        files = {path.with_stem(f"{path.stem}_{strip[0].name}"): [strip] for strip in strips}
    for target, parts in files.items():
        draw(target, parts, options.dpi, options.width, options.font)
    return list(files)


# ------------------------------------------------------------------ curves


def curves_of(lines):
    """Return {key: {epoch: value}} of the lines of an experiment.

    Keys are "PSNR SET xS", its loss terms, and "contrast" of PCL-SR: s_neg - s_pos.
    """
    found = {}
    for (name, scale), tests in tests_of_training(lines).items():
        curve = {epoch: line["psnr"] for epoch, line in tests.items() if line["psnr"] is not None}
        found |= {printable(f"PSNR {name} x{scale}"): curve} if curve else {}
    for line in lines:
        for term, value in line.get("loss", {}).items():
            if value is not None:
                found.setdefault(term, {})[line["epoch"]] = value
    for positive in [key for key in found if key.endswith(" s_pos")]:
        negative = found.get(positive.replace("s_pos", "s_neg"), {})
        curve = {e: negative[e] - value for e, value in found[positive].items() if e in negative}
        found |= {"contrast": curve} if curve else {}
    return found


def draw_curves(runs, options):
    """Draw quantities of runs over their epochs into the file --curves, one panel for each."""
    from checkpoint.plot import plot_panels

    panels = {}
    for run in runs:
        for key, curve in curves_of(run.lines).items():
            panels.setdefault(key, {})[run.label] = curve
    keys = options.keys or panels
    chosen = {k: curves for k, curves in panels.items() if k in keys or k.split()[0] in keys}
    if not chosen or set(keys) - {*panels, *(key.split()[0] for key in panels)}:
        raise UserError(f"no curve: --keys must be of {', '.join(panels) or 'a training'}")
    path, family = options.curves, require_drawable(options.curves, options.font)
    more = {"width": options.width, "family": family, "dpi": options.dpi or DPI_OF_CURVES}
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_panels(path.parent, path.stem, chosen, "", (path.suffix[1:],), **more)
    return path


# ------------------------------------------------------------------ gains


def draw_gains(rows, scorer, options):
    """Draw gains over the first row into the file --gains: a line of panels for each metric.

    Panels are sets. A bar is the 95 % interval of a group over seeds, or one standard error over
    images of an experiment; a group of fewer than three seeds is a circle without a bar.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from checkpoint.plot import style

    bases = {(row, key): base for base, row, key in pairs_of(rows)}
    keys, others = (list(dict.fromkeys(pair[i] for pair in bases)) for i in (1, 0))
    if not bases:
        raise UserError(f"--gains needs two rows or more with tests of one set: {len(rows)} given")
    family = require_drawable(options.gains, options.font)
    natural = 1.3 + 2.1 * len(keys)
    width, points = options.width or natural, FONT_OF_WIDTH if options.width else FONT
    size = width, len(scorer.metrics) * (0.8 + 0.27 * len(others)) * points / FONT
    with rc_context(style(family, points)):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots(len(scorer.metrics), len(keys), squeeze=False, sharey=True)
        for line, metric in zip(axes, scorer.metrics, strict=True):
            for axis, key in zip(line, keys, strict=True):
                _prepare_axis(axis)
                for place, row in enumerate(others):
                    if base := bases.get((row, key)):
                        gain = gain_over(base, row, key, metric, scorer)
                        _draw_gain(axis, place, gain, isinstance(row, Group))
                axis.set_title(printable(f"{key[0]} x{key[1]}"), fontsize=points)
            line[0].set_yticks(range(len(others)), [row.label for row in others])
            line[0].set_ylim(len(others) - 0.5, -0.5)  # the first row is at the top
            # in the middle of the line: of an even number of panels, left of the middle one
            label = f"{metric.title}: gain over {rows[0].label}"
            line[len(line) // 2].set_xlabel(label, x=0.0 if len(line) % 2 == 0 else 0.5)
        _save(figure, options.gains, options.dpi or DPI_OF_CURVES)
    return options.gains


def _prepare_axis(axis):
    axis.axvline(0, color="black", linewidth=0.8)
    axis.locator_params(axis="x", nbins=3)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(axis="x", alpha=0.3)


def _draw_gain(axis, place, gain, is_group):
    if gain.mean is None:
        return
    half = gain.margin if is_group else gain.image_error
    look = {"fmt": "o", "markersize": 4, "capsize": 2, "color": f"C{place % 10}"}
    look |= {"mfc": "white"} if half is None else {}
    axis.errorbar(gain.mean, place, xerr=half, **look)
