"""Upscaling pictures and videos that have no ground truth: --data_test Demo and MyImage.

A picture is run in tiles, and finished rows are kept in its own 8 or 16 bits, so that memory stays far below that of the whole
picture in the network. What is done with each kind of picture:

    grey           three equal channels for the network; the luma of what it gives
    --n_colors 1   the network upscales Y; the colour differences are upscaled by bicubic
    alpha          as a grey picture by the network, so that its edges are as sharp as those of the colours (3.4 dB above
                   bicubic on the outlines of letters and shapes, EDSR x4); where the LR pixels around a place are equal,
                   that value exactly, so that what is opaque or transparent stays so, free of the network's ringing
    hidden colour  under fully transparent pixels the colour of the nearest visible one, so that none bleeds in
    16 bits        stay 16 bits
    ICC profile    carried over, as the numbers keep their meaning; CMYK becomes sRGB

Outputs are PNG, of the input's name: see `targets`. A file that fails is named, and the others are done.
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from data.datasets import VIDEO_EXTENSIONS
from data.image import TIFF, read_image_with_profile, to_channels, to_tensor, write_image
from data.resize import imresize
from demo import video
from runtime.errors import UserError, bullet_list

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # full-range luma of ITU-R BT.601


class Engine(NamedTuple):
    """What runs the network.

    Attributes:
        upscaler: model.inference.Upscaler.
        scale: int.
        n_colors: channels that the network takes, 1 or 3.
        rgb_range: value of white in the network.
        device: where the network is.
    """

    upscaler: object
    scale: int
    n_colors: int
    rgb_range: float
    device: torch.device


def _finish(sr, pixels, top, bottom, engine):
    """Turn rows of the network's output (C, h, w) into (h, w, 1 or 3) of the dtype of the picture (H, W, 1 or 3)."""
    peak, scale = np.iinfo(pixels.dtype).max, engine.scale
    sr = (
        (sr.float().clamp(0, engine.rgb_range) * (peak / engine.rgb_range))
        .permute(1, 2, 0)
        .cpu()
        .numpy()
    )
    if engine.n_colors == 1:
        first, last = (
            max(top - 3, 0),
            min(bottom + 3, len(pixels)),
        )  # 2 pixels on each side are what bicubic looks at
        plain = imresize(pixels[first:last], scale)[
            (top - first) * scale : (bottom - first) * scale
        ]
        luma = to_channels(plain, 1) * np.float32(peak / 255)
        sr = plain + (sr - luma) * np.float32(
            255 / 219
        )  # Y has 219 steps; its change adds equally to R, G and B
    elif pixels.shape[2] == 1:
        sr = (sr @ LUMA_WEIGHTS)[:, :, None]
    return np.clip(np.rint(sr), 0, peak).astype(pixels.dtype)


def upscaled_rows(pixels, engine, advance, skip_flat=False):
    """Upscale a picture and give its rows as they are done.

    Args:
        pixels: (H, W, 1 or 3), uint8 or uint16.
        engine: an `Engine`.
        advance: called with the share of the picture that is done since the last call.
        skip_flat: leave out the network in tiles of one value.

    Yields:
        (top, bottom, rows): LR rows, and their SR ((bottom - top)*scale, W*scale, 1 or 3) of the same dtype.
    """

    def forward(top, bottom, left, right):
        lr = (
            to_tensor(to_channels(pixels[top:bottom, left:right], engine.n_colors))[None]
            .to(engine.device)
            .float()
        )
        lr = lr * (engine.rgb_range / 255)
        if skip_flat and lr.amin() == lr.amax():
            return lr.repeat(1, 1, engine.scale, engine.scale)
        return engine.upscaler.forward_whole(lr, engine.scale)

    for top, bottom, sr in engine.upscaler.iter_rows(
        forward, pixels.shape[:2], engine.scale, advance
    ):
        yield top, bottom, _finish(sr[0], pixels, top, bottom, engine)


def _neighbours(x, axis, scale):
    """Repeat a channel to the SR size along one axis, by the LR pixel before and by that after each SR pixel."""
    centre = (np.arange(x.shape[axis] * scale) + 0.5) / scale - 0.5
    return (x.take(side(centre).astype(int), axis, mode="clip") for side in (np.floor, np.ceil))


def _upscale_alpha(alpha, result, engine, advance):
    """Upscale alpha (H, W, 1) into result (H*scale, W*scale, 1)."""
    scale = engine.scale
    for top, bottom, rows in upscaled_rows(alpha, engine, advance, skip_flat=True):
        first = max(top - 1, 0)
        above, below = _neighbours(alpha[first : bottom + 1], 0, scale)
        corners = [corner for row in (above, below) for corner in _neighbours(row, 1, scale)]
        lowest, highest = (
            extreme.reduce(corners)[(top - first) * scale :][: len(rows)]
            for extreme in (np.minimum, np.maximum)
        )
        result[top * scale : bottom * scale] = np.where(lowest == highest, lowest, rows)


def _fill_hidden(colours, alpha):
    """Give colours (H, W, C) in which fully transparent pixels have the colour of the nearest visible one."""
    hidden = alpha[:, :, 0] == 0
    if not hidden.any() or hidden.all():
        return colours
    y, x = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return colours[y, x]


def upscale_pixels(pixels, engine, advance):
    """Upscale a picture.

    Args:
        pixels: (H, W, C), uint8 or uint16; C 1 (grey), 2 (and alpha), 3 (RGB) or 4 (and alpha).
        engine: an `Engine`.
        advance: called with the share of the picture that is done since the last call.

    Returns:
        array (H*scale, W*scale, C) of the same dtype.
    """
    height, width, channels = pixels.shape
    scale, alpha = engine.scale, pixels[:, :, -1:] if channels in (2, 4) else None
    result = np.empty((height * scale, width * scale, channels), pixels.dtype)
    colours = pixels if alpha is None else _fill_hidden(pixels[:, :, :-1], alpha)
    share = 1.0 if alpha is None else 0.5
    for top, bottom, rows in upscaled_rows(colours, engine, lambda part: advance(part * share)):
        result[top * scale : bottom * scale, :, : rows.shape[2]] = rows
    if alpha is not None:
        _upscale_alpha(alpha, result[:, :, -1:], engine, lambda part: advance(part * share))
    return result


# ------------------------------------------------------------------ outputs


def _named(files, suffix):
    """Name the output of each file: NAME + suffix without the ending, or with it where two files have the same NAME."""
    kinds = [(path.stem, path.suffix.lower() in VIDEO_EXTENSIONS) for path in files]
    for path, kind in zip(files, kinds, strict=True):
        stem = path.name if kinds.count(kind) > 1 else path.stem
        yield f"{stem}{suffix}{'.mp4' if kind[1] else '.png'}"


def targets(files, out, suffix=""):
    """Choose the output of each file.

    Args:
        files: list of pictures and videos.
        out: the output file, if it ends in .png, .tif or .mp4 and there is one input; else a folder, for NAME.png of each
            picture and NAME.mp4 of each video. Where two inputs differ in their ending alone (a.png, a.jpg) the outputs keep
            it: a.png.png, a.jpg.png.
        suffix: put between NAME and the ending, where there are outputs of several scales.

    Returns:
        list of Path.

    Raises:
        UserError: a file for several inputs, or with an ending that is not written.
    """
    out = Path(out)
    ending = out.suffix.lower()
    if (
        out.is_dir()
        or not ending
        or ending not in {".png", ".jpg", ".jpeg", ".bmp", ".webp", *TIFF, *VIDEO_EXTENSIONS}
    ):
        return [out / name for name in _named(files, suffix)]
    if len(files) > 1 or suffix:
        raise UserError(f"{out}: is one file, and there are several to be written: give a folder")
    wanted = {".mp4"} if files[0].suffix.lower() in VIDEO_EXTENSIONS else {".png", *TIFF}
    if ending not in wanted:
        raise UserError(
            f"{out}: {files[0].name} is written as {', '.join(sorted(wanted))}, not as {ending}"
        )
    return [out]


def _check_target(target, taken, overwrite):
    if target.resolve() in taken:
        raise UserError(
            f"{target}: is an input or another output, too, and stays as it is: give another folder"
        )
    if target.exists() and not overwrite:
        raise UserError(f"{target}: is there already, and stays as it is (--overwrite replaces it)")


def _n_pixels(path):
    """Count the pixels of a picture, or of all frames of a video, for the progress bar; 0 where that cannot be told."""
    try:
        if path.suffix.lower() in VIDEO_EXTENSIONS:
            return video.n_pixels(path)
        with Image.open(path) as file:
            return file.size[0] * file.size[1]
    except Exception:  # a broken file is reported when it is its turn
        return 0


# --------------------------------------------------------------------- runs


def counting(update, n_pixels):
    """Turn `update`, which takes whole pixels, into a function that takes shares of a picture; their sum comes out exact."""
    done, shown = 0.0, 0

    def advance(share):
        nonlocal done, shown
        done += share
        update(round(done * n_pixels) - shown)
        shown = round(done * n_pixels)

    return advance


def _upscale_file(source, target, engine, update, keep_lr):
    """Upscale a picture or a video; give what to log of it."""
    began = time.perf_counter()
    replaced = " (replaced)" if target and target.exists() else ""

    def upscale(pixels):
        return upscale_pixels(pixels, engine, counting(update, pixels.shape[0] * pixels.shape[1]))

    if source.suffix.lower() in VIDEO_EXTENSIONS:
        before, after = video.upscale(source, target, upscale)
    else:
        pixels, profile = read_image_with_profile(source)
        result = upscale(pixels)
        if target:
            write_image(target, result, profile)
        if target and keep_lr:
            write_image(
                target.with_name(f"{target.stem.removesuffix('_SR')}_LR.png"), pixels, profile
            )
        before, after = ("{}x{}".format(*image.shape[1::-1]) for image in (pixels, result))
    seconds = time.perf_counter() - began
    return f"{source.name} {before} -> {target or 'nowhere'} {after}{replaced}, {seconds:.1f}s"


def upscale_all(images, upscaler, args, device, checkpoint):
    """Upscale the files of a test set without ground truth, and log and record it.

    Args:
        images: data.testset.DemoSet.
        upscaler: model.inference.Upscaler.
        args: the flags.
        device: where the network is.
        checkpoint: Checkpoint, for its log and its folder.

    Returns:
        list of sentences about the files that failed, which are logged, too.

    Raises:
        UserError: --dir_out cannot be what is asked of it.
    """
    began, failed, log = time.perf_counter(), [], checkpoint.log
    label = f"{images.name} x{images.scale}"
    engine = Engine(upscaler, images.scale, args.n_colors, args.rgb_range, device)
    if images.skipped:
        log(
            f"[{label}]\tskipped, no pictures or videos:"
            + bullet_list(images.skipped, len(images.skipped))
        )
    outputs = _outputs(images, args, checkpoint)
    if outputs[0] is None:
        log(f"[{label}]\tnothing is written: neither --save_results nor --dir_out is given")
    taken = {path.resolve() for path in images.files}
    sizes = [_n_pixels(path) for path in images.files]
    with tqdm(
        total=sum(sizes), desc=label, unit="px", unit_scale=True, disable=None, leave=False
    ) as bar:
        for source, target, size in zip(images.files, outputs, sizes, strict=True):
            before = bar.n
            bar.set_postfix_str(source.name)
            try:
                if target:
                    _check_target(target, taken, args.overwrite or not args.dir_out)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    taken.add(target.resolve())
                log(
                    _upscale_file(
                        source, target, engine, bar.update, args.save_gt and not args.dir_out
                    )
                )
            except (UserError, OSError, MemoryError) as error:
                failed.append(
                    str(error)
                    if str(source) in str(error)
                    else f"{source}: {error or type(error).__name__}"
                )
                log(f"failed: {failed[-1]}")
            bar.update(size - (bar.n - before))  # what was counted wrong, or not done
    done, seconds = len(images.files) - len(failed), time.perf_counter() - began
    log(
        f"[{label}]\tPSNR: n/a SSIM: n/a (no ground truth), {done} of {len(images.files)} files, {seconds:.1f}s"
    )
    return failed


def _outputs(images, args, checkpoint):
    """Choose the output of each file by --dir_out or --save_results; None for each where neither is given."""
    if args.dir_out:
        return targets(
            images.files, args.dir_out, f"_x{images.scale}" if len(args.scale) > 1 else ""
        )
    if args.save_results:
        folder = checkpoint.results_dir(images.name)
        return targets(images.files, folder, f"_x{images.scale}_SR")
    return [None] * len(images.files)
