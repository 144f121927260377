"""Pictures of crops side by side, as papers on super-resolution print them: see compare.py, which calls this."""

import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.datasets import dataset_spec
from data.image import read_image, to_channels, to_tensor
from data.resize import imresize
from metric import calc_psnr, calc_ssim
from runtime.environment import use_file_backend
from runtime.errors import UserError
from runtime.files import atomic_path

# sizes in inches; at 100 dots an inch a crop is 190 pixels wide and a line of its label 14 pixels high
DPI = 100
DPI_OF_VECTORS = 300  # of the images in formats that are printed and zoomed into
CROP, LABEL, GAP, MARGIN = 1.9, 0.42, 0.08, 0.05
FONT = 10  # points


class Panel(NamedTuple):
    """An image (H, W, 3) uint8 and the text below its crop."""

    text: str
    image: np.ndarray


def _stem(results, image, scale, data_test):
    """Find (scale, NAME_xS) of an image whose HR was saved in a results folder; None if it was not."""
    names = (
        re.fullmatch(re.escape(image) + r"_x(\d+)_HR", path.stem)
        for path in results.glob("*_HR.png")
    )
    scales = sorted(int(match[1]) for match in names if match)
    scales = [number for number in scales if scale in (None, number)]
    if len(scales) > 1:
        raise UserError(
            f"{data_test} {image} was saved at the scales {', '.join(map(str, scales))}: give --scale"
        )
    return (scales[0], f"{image}_x{scales[0]}") if scales else None


def _missing(experiment, data_test, what, scale=None):
    """Make the error for a picture that was not saved, with the command that saves it."""
    folder, results = experiment.folder, experiment.results_dir(data_test)
    stems = sorted(path.stem for path in results.glob(f"*{what.rpartition('_')[2]}"))
    names = [re.sub(r"_x(\d+)_[A-Z]+$", r" (x\1)", stem) for stem in stems]
    start = f"{results} has no {what}"
    if names:
        return UserError(
            f"{start}; the images there: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    flags = (
        f"--test_only --data_test {data_test}"
        + (f" --scale {scale}" if scale else "")
        + " --save_results --save_gt"
    )
    if (folder / "model/model_latest.pt").is_file():
        where = (
            f"--dir_experiment {shlex.quote(str(folder.parent))} --load {shlex.quote(folder.name)}"
        )
        return UserError(f"{start}. Save it with: python src/main.py {where} {flags}")
    return UserError(f"{start}. Run the test of {folder.name} again with {flags}")


def load_panels(experiments, data_test, image, scale=None):
    """Read the saved pictures of a tested image.

    Args:
        experiments: list of compare.Experiment.
        data_test: name of the test set.
        image: name of the image without ending.
        scale: int, or None where it was tested at one scale alone.

    Returns:
        (scale, panels): Panels of bicubic, of each experiment and of HR. PSNR and SSIM are of the whole image, from the saved
        8-bit files, with the conversions and the border of the tests.

    Raises:
        UserError: a picture was not saved, or pictures do not belong together; the command that saves them is named.
    """
    truths = [
        (run, _stem(run.results_dir(data_test), image, scale, data_test)) for run in experiments
    ]
    run, found = next(((run, found) for run, found in truths if found), (experiments[0], None))
    if found is None:
        raise _missing(run, data_test, f"{image}_x{scale or 'S'}_HR.png", scale)
    scale, stem = found
    hr, lr = (_read(run, data_test, f"{stem}_{kind}.png", scale) for kind in ("HR", "LR"))
    benchmark = dataset_spec(data_test).benchmark
    panels = []
    if not any(_is_bicubic(run) for run in experiments):
        panels.append(_panel("bicubic", imresize(lr, scale), hr, scale, benchmark))
    for run in experiments:
        sr = _read(run, data_test, f"{stem}_SR.png", scale)
        if sr.shape != hr.shape:
            raise UserError(
                f"{run.results_dir(data_test) / stem}_SR.png is {_size(sr)}, HR of {truths[0][0].label} is {_size(hr)}"
            )
        panels.append(_panel(run.label, sr, hr, scale, benchmark))
    return scale, [*panels, Panel("HR\nPSNR (dB) / SSIM", to_channels(hr, 3))]


def _read(run, data_test, name, scale):
    path = run.results_dir(data_test) / name
    if not path.is_file():
        raise _missing(run, data_test, name, scale)
    return read_image(path)


def _size(image):
    return f"{image.shape[1]}x{image.shape[0]} pixels of {image.shape[2]} channels"


def _is_bicubic(run):
    config = run.folder / "config.txt"
    return (
        config.is_file()
        and re.search(r"^--model Bicubic$", config.read_text(encoding="utf-8"), re.M) is not None
    )


def _panel(label, image, hr, scale, benchmark):
    scores = [
        metric(to_tensor(image), to_tensor(hr), scale, 255, benchmark)
        for metric in (calc_psnr, calc_ssim)
    ]
    return Panel(f"{label}\n{scores[0]:.2f} / {scores[1]:.4f}", to_channels(image, 3))


def choose_box(hr, sr, side):
    """Give (x, y) of the square in which an upsampled image errs most, which shows best what a network restores."""
    error = ((hr.astype(float) - sr) ** 2).mean(axis=2)
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(boxes[::4, ::4].argmax(), boxes[::4, ::4].shape)
    return 4 * int(x), 4 * int(y)


def _checked_box(box, panels, name):
    """Give the box (x, y, side), chosen where None is given, of at most the image."""
    hr = panels[-1].image
    height, width = hr.shape[:2]
    if box is None:
        side = min(max(16, min(height, width) // 6), height, width)
        return (*choose_box(hr, panels[0].image, side), side)
    x, y, side = box
    if side < 1 or x < 0 or y < 0 or x + side > width or y + side > height:
        raise UserError(
            f"--box {x} {y} {side}: is not inside {name}, which is {width}x{height} pixels"
        )
    return x, y, side


def draw(path, title, panels, box):
    """Draw HR with the box at the left, and the box of each panel beside it: in two rows where there are four or more.

    Args:
        path: the file; its ending names the format.
        title: text below HR.
        panels: list of Panel, HR the last.
        box: (x, y, side) in HR pixels.

    Raises:
        UserError: no such format.
    """
    use_file_backend()
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    x, y, side = box
    hr = panels[-1].image
    rows = 1 if len(panels) < 4 else 2
    columns = math.ceil(len(panels) / rows)
    high = rows * CROP + (rows - 1) * LABEL  # HR ends where the last row of crops ends
    wide = min(high * hr.shape[1] / hr.shape[0], 1.8 * high)
    size = (2 * MARGIN + wide + columns * (GAP + CROP), 2 * MARGIN + rows * (CROP + LABEL))
    figure = Figure(size)
    dpi = DPI_OF_VECTORS if path.suffix in (".pdf", ".svg", ".eps", ".ps") else DPI
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise UserError(
            f"--figure {path}: {path.suffix!r} is no format of pictures; .png and .pdf are"
        )

    def fitting(width, *texts):  # in points; a letter is 0.55 of its size wide
        return min(
            FONT,
            width * 72 / (0.55 * max(len(line) for text in texts for line in text.split("\n"))),
        )

    def place(left, top, width, height, image, text, points):
        axis = figure.add_axes(
            (left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1])
        )
        smaller = (
            image.shape[1] > width * dpi
        )  # where single pixels cannot be shown, they are averaged lest stripes alias
        axis.imshow(image, interpolation="hanning" if smaller else "nearest")
        axis.set_axis_off()
        x_text, y_text = (left + width / 2) / size[0], 1 - (top + height + 0.04) / size[1]
        figure.text(x_text, y_text, text, ha="center", va="top", fontsize=points)
        return axis

    axis = place(MARGIN, MARGIN, wide, high, hr, title, fitting(wide, title))
    axis.add_patch(
        Rectangle((x - 0.5, y - 0.5), side, side, fill=False, edgecolor="red", linewidth=1.5)
    )
    points = fitting(CROP, *(panel.text for panel in panels))
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = MARGIN + wide + GAP + column * (GAP + CROP), MARGIN + row * (CROP + LABEL)
        place(left, top, CROP, CROP, panel.image[y : y + side, x : x + side], panel.text, points)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix[1:])


def draw_all(path, experiments, data_test, images, scale=None, box=None):
    """Draw a picture for each image: `path`, or, for several images, a file beside it with `_IMAGE` in its name.

    Returns:
        list of the paths; nothing is drawn where a picture of any image is missing (UserError).
    """
    found = [load_panels(experiments, data_test, image, scale) for image in images]
    boxes = [
        _checked_box(box, panels, image) for (_, panels), image in zip(found, images, strict=True)
    ]
    paths = [
        path if len(images) == 1 else path.with_name(f"{path.stem}_{image}{path.suffix}")
        for image in images
    ]
    for target, image, (number, panels), place in zip(paths, images, found, boxes, strict=True):
        draw(target, f"{image} ({data_test} x{number})", panels, place)
    return [Path(target) for target in paths]
