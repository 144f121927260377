"""Crops of several methods side by side, as papers on super-resolution print them."""

import math
from typing import NamedTuple

import numpy as np

from comparison.boxes import check_boxes, choose_boxes
from runtime.files import UserError, atomic_path
from runtime.process import use_file_backend

# sizes in inches, at the natural width of a figure
CROP, LABEL, GAP, MARGIN = 1.9, 0.42, 0.08, 0.05
DPI = 100
DPI_OF_VECTORS = 300  # of the images in vector formats, which are printed and zoomed into
FONT = 10  # points
CHARACTER_WIDTH = 0.55  # of the font size
COLORS = ("red", "#0072b2", "#009e73", "#e69f00")  # of boxes; distinct for color-blind readers
VECTOR_FORMATS = (".pdf", ".svg", ".eps", ".ps")


class Strip(NamedTuple):
    """An image of the figure: the whole image with boxes, and all crops.

    Attributes:
        title: text below the whole image.
        panels: list of pictures.Panel; the last one is shown whole.
        boxes: list of (x, y, side) in HR pixels.
    """

    title: str
    panels: list
    boxes: list


class Tile(NamedTuple):
    """An image at its place in a figure; left, top, width and height in inches."""

    left: float
    top: float
    width: float
    height: float
    image: np.ndarray
    text: str = ""
    points: float = FONT
    boxes: tuple = ()  # drawn into the image
    frame: str | None = None  # color of a frame


def _fitting_font(width, texts, largest):
    """Return the font size (points) at which the longest line fits a width (inches)."""
    longest = max(len(line) for text in texts for line in text.split("\n"))
    return min(largest, width * 72 / (CHARACTER_WIDTH * max(longest, 1)))


def _natural_size(strip):
    """Return (rows, columns, width of the whole image, height of the strip) in inches.

    With one box, four or more crops stand in two rows. With several boxes, each has a row.
    """
    n_panels, n_boxes = len(strip.panels), len(strip.boxes)
    rows = n_boxes if n_boxes > 1 else 1 if n_panels < 4 else 2
    columns = n_panels if n_boxes > 1 else math.ceil(n_panels / rows)
    between = GAP if n_boxes > 1 else LABEL  # labels stand below the last row of several boxes
    high = rows * CROP + (rows - 1) * between
    height, width = strip.panels[-1].image.shape[:2]
    return rows, columns, min(high * width / height, 1.8 * high), high


def _layout_strip(strip, top, width=None):
    """Return (tiles, height, width) of a strip whose top is at `top`.

    Width None is the natural width."""
    _, columns, whole, high = _natural_size(strip)
    natural = whole + columns * (GAP + CROP)
    factor = (width or natural) / natural
    crop, label, gap, whole, high = (x * factor for x in (CROP, LABEL, GAP, whole, high))
    font = FONT * min(1.0, factor)
    points = _fitting_font(whole, [strip.title], font)
    overview = strip.panels[-1].image
    several = len(strip.boxes) > 1
    tiles = [Tile(MARGIN, top, whole, high, overview, strip.title, points, tuple(strip.boxes))]
    points = _fitting_font(crop, [panel.text for panel in strip.panels], font)
    for i, (x, y, side) in enumerate(strip.boxes):
        for k, panel in enumerate(strip.panels):
            row, column = (i, k) if several else divmod(k, columns)
            left = MARGIN + whole + gap + column * (gap + crop)
            down = top + row * (crop + (gap if several else label))
            text = "" if several and i + 1 < len(strip.boxes) else panel.text
            frame = COLORS[i % len(COLORS)] if several else None
            image = panel.image[y : y + side, x : x + side]
            tiles.append(Tile(left, down, crop, crop, image, text, points, frame=frame))
    return tiles, high + label, natural * factor


def _draw_tile(figure, tile, dpi):
    from matplotlib.patches import Rectangle  # matplotlib takes a second to load

    width, height = figure.get_size_inches()
    axis = figure.add_axes(
        (
            tile.left / width,
            1 - (tile.top + tile.height) / height,
            tile.width / width,
            tile.height / height,
        )
    )
    # if an image has more pixels than dots, averaging avoids aliasing
    is_smaller = tile.image.shape[1] > tile.width * dpi
    axis.imshow(tile.image, interpolation="hanning" if is_smaller else "nearest", aspect="auto")
    axis.set_axis_off()
    for i, (x, y, side) in enumerate(tile.boxes):
        color = COLORS[i % len(COLORS)]
        corner = (x - 0.5, y - 0.5)
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=1.5))
    if tile.frame:
        shape = tile.image.shape
        frame = Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, clip_on=False)
        frame.set(edgecolor=tile.frame, linewidth=2)
        axis.add_patch(frame)
    if tile.text:
        x = (tile.left + tile.width / 2) / width
        y = 1 - (tile.top + tile.height + 0.04) / height
        figure.text(x, y, tile.text, ha="center", va="top", fontsize=tile.points)


def draw(path, strips, dpi=None, width=None):
    """Draw images below each other into one figure.

    Args:
        path: the file; its extension names the format.
        strips: list of Strip.
        dpi: dots per inch; None: 100, or 300 for the images of vector formats.
        width: inches; None: that of the widest image at crops of 1.9 inches.

    Raises:
        UserError: matplotlib cannot write the format.
    """
    use_file_backend()
    from matplotlib.figure import Figure

    if width is None and len(strips) > 1:
        width = max(_layout_strip(strip, 0)[2] for strip in strips) + 2 * MARGIN
    inner = width - 2 * MARGIN if width else None
    tiles, top, right = [], MARGIN, 0.0
    for strip in strips:
        placed, high, wide = _layout_strip(strip, top, inner)
        tiles += placed
        top, right = top + high, max(right, wide)
    figure = Figure((right + 2 * MARGIN, top + MARGIN))
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--figure {path}: {path.suffix!r} must be a format of pictures, as .png")
    dpi = dpi or (DPI_OF_VECTORS if path.suffix in VECTOR_FORMATS else DPI)
    for tile in tiles:
        _draw_tile(figure, tile, dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix[1:])


def make_strip(picture, boxes=None, n_boxes=1):
    """Return the Strip of a picture, with boxes chosen if none are given.

    Raises:
        UserError: a box is not inside the picture.
    """
    if not boxes:
        boxes = choose_boxes(picture.compared, picture.hr, n_boxes)
    check_boxes(boxes, picture)
    return Strip(picture.title, picture.panels, boxes)


def draw_pictures(path, pictures, options):
    """Draw pictures into the file `path`, or each into its own file NAME_IMAGE.

    Args:
        path: a Path.
        pictures: list of pictures.Picture.
        options: with `box`, `boxes`, `dpi`, `width` and `one_file` as compare.py parses them.

    Returns:
        list of the paths. Nothing is drawn if a box is wrong.
    """
    strips = [make_strip(picture, options.box, options.boxes) for picture in pictures]
    if len(strips) == 1 or options.one_file:
        files = {path: strips}
    else:
        names = [f"{path.stem}_{picture.name}{path.suffix}" for picture in pictures]
        files = {path.with_name(n): [strip] for n, strip in zip(names, strips, strict=True)}
    for target, parts in files.items():
        draw(target, parts, options.dpi, options.width)
    return list(files)
