"""Upscale pictures and videos that have no ground truth: --data_test Demo and MyImage.

`picture.py` upscales the pixels of a picture, `video.py` the frames of a video. A file that fails
is reported, and the others are upscaled. PNG and TIFF are lossless and keep 8 or 16 bits. A picture
that JPEG or WebP cannot hold (alpha in JPEG, 16 bits, too large) is written as PNG.
"""

import math
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from checkpoint.metrics import results_dir
from data.datasets import VIDEO_EXTENSIONS
from data.image import TIFF, image_size, read_image_with_metadata, write_image
from demo import video
from demo.picture import UpscaleConfig, upscale_pixels
from progress import progress_bar
from runtime.files import UserError, atomic_path, bullet_list, report_write_errors, shorten

FORMATS = ("png", "tif", "jpg", "webp")
PICTURE_EXTENSIONS = (".png", *sorted(TIFF), ".jpg", ".jpeg", ".webp")
NOT_WRITTEN = (".bmp", ".gif", ".ppm", ".pgm", ".avif", ".heic")  # pictures that are not written
MAX_SIDE = {".jpg": 65_535, ".jpeg": 65_535, ".webp": 16_383}  # of lossy formats, pixels
QUALITY = 95  # of JPEG (full color resolution) and WebP


class Skipped(Exception):
    """An output exists and is kept."""


def _is_video(path):
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _default_names(files, suffix, extension):
    """Yield NAME + suffix + extension; NAME keeps its own extension if two files share a stem."""
    keys = [(path.stem, _is_video(path)) for path in files]
    for path, key in zip(files, keys, strict=True):
        stem = path.name if keys.count(key) > 1 else path.stem
        end = f"{suffix}{'.mp4' if key[1] else extension}"
        yield shorten(stem, max(255 - len(os.fsencode(end)), 9)) + end


def _choose_outputs(images, args, checkpoint):
    """Return the output of each file by --dir_out or --save_results; None for each without them.

    --dir_out is a file for a single input, otherwise a folder for NAME.png of each picture and
    NAME.mp4 of each video.
    """
    files = images.files
    if not args.dir_out and not args.save_results:
        return [None] * len(files)
    if not args.dir_out:
        folder = results_dir(checkpoint.dir, images.name)
        return [folder / name for name in _default_names(files, f"_x{images.scale}_SR", ".png")]
    suffix = f"_x{images.scale}" if len(args.scale) > 1 else ""
    suffix += args.suffix or ""
    out = Path(args.dir_out)
    extension = out.suffix.lower()
    if out.is_dir() or extension not in {*PICTURE_EXTENSIONS, *VIDEO_EXTENSIONS, *NOT_WRITTEN}:
        return [out / name for name in _default_names(files, suffix, f".{args.format or 'png'}")]
    if len(files) > 1 or suffix:
        when = "for several inputs or with --suffix"
        raise UserError(f"--dir_out {out} must be a folder, not a file, {when}")
    allowed = (".mp4",) if _is_video(files[0]) else PICTURE_EXTENSIONS
    if extension not in allowed:
        names = ", ".join(allowed)
        raise UserError(f"--dir_out {out} must end in {names} for the input {files[0].name}")
    return [out]


def _why_not_held(extension, pixels):
    """Return what a file with this extension cannot hold of pixels (H, W, 1 to 4), or None."""
    if extension not in MAX_SIDE:
        return None
    if pixels.dtype == np.uint16:
        return "16 bits"
    if extension != ".webp" and pixels.shape[2] in (2, 4):
        return "transparency"
    limit = MAX_SIDE[extension]
    return f"more than {limit:,} pixels on a side" if max(pixels.shape[:2]) > limit else None


def _write_picture(path, pixels, metadata):
    """Write pixels (H, W, 1 to 4) atomically, in the format of the path's extension."""
    extension = path.suffix.lower()
    if extension not in MAX_SIDE:
        write_image(path, pixels, **metadata)
        return
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image = image.convert("RGBA") if image.mode == "LA" else image
    options = {name: value for name, value in metadata.items() if value}
    if extension == ".webp" and pixels.shape[2] < 3:  # WebP stores gray as RGB
        options.pop("icc_profile", None)
    if len(options.get("exif", b"")) > 65_500:  # bytes that a segment of JPEG holds
        del options["exif"]
    jpeg = {"format": "JPEG", "subsampling": 0}
    options |= {"format": "WEBP"} if extension == ".webp" else jpeg
    with report_write_errors(path), atomic_path(path) as partial:
        image.save(partial, quality=QUALITY, **options)


def _count_pixels(path):
    """Return the number of pixels of a picture, or of all frames of a video; 0 if unknown."""
    try:
        if not _is_video(path):
            return math.prod(image_size(path))
        meta = video.read_metadata(path)
        return round(meta["duration"] * meta["fps"]) * math.prod(meta["size"])
    except Exception:  # a broken file is reported when it is upscaled
        return 0


def _check_output(path, used_paths, args):
    """Raise an error if an output is also an input or another output, or exists and is kept."""
    if path.resolve() in used_paths:
        taken = "is also an input or another output, so it is kept"
        raise UserError(f"{path} {taken}: change --dir_out")
    if path.exists() and args.dir_out and not args.overwrite:
        raise Skipped(str(path))


def _upscale_file(source, output, config, args, used_paths, update):
    """Upscale a picture or a video; return its line of the log."""
    t_start, note = time.perf_counter(), ""
    if output:
        _check_output(output, used_paths, args)
        output.parent.mkdir(parents=True, exist_ok=True)
        used_paths.add(output.resolve())

    def upscale(pixels):
        n_pixels = pixels.shape[0] * pixels.shape[1]
        return upscale_pixels(pixels, config, lambda fraction: update(fraction * n_pixels))

    replaced = output and output.exists()
    if _is_video(source):
        before, after = video.upscale(source, output, upscale)
    else:
        pixels, metadata = read_image_with_metadata(source)
        result = upscale(pixels)
        if output and (reason := _why_not_held(output.suffix.lower(), result)):
            note += f" ({output.suffix.lower()[1:]} cannot hold {reason})"
            output = output.with_suffix(".png")
            _check_output(output, used_paths, args)
            replaced = output.exists()
        if output:
            _write_picture(output, result, metadata)
        if output and args.save_gt and not args.dir_out:
            stem = output.stem.removesuffix("_SR")
            write_image(output.with_name(f"{stem}_LR.png"), pixels, **metadata)
        before, after = ("{}x{}".format(*image.shape[1::-1]) for image in (pixels, result))
    seconds = time.perf_counter() - t_start
    where = f"{output or 'nowhere'} {after}{' (replaced)' if replaced else ''}"
    return f"{source.name}{note} {before} -> {where}, {seconds:.1f}s"


def upscale_all(images, upscaler, args, device, checkpoint):
    """Upscale the files of a `data.testset.DemoSet`; return messages about those that failed.

    They are logged, too. Nothing is recorded in metrics.jsonl.
    """
    t_start, log = time.perf_counter(), checkpoint.log
    files, label = images.files, f"{images.name} x{images.scale}"
    config = UpscaleConfig(upscaler, images.scale, args.n_colors, args.rgb_range, device)
    if images.skipped:
        names = bullet_list(images.skipped, len(images.skipped))
        log(f"[{label}]\tskipped, not a picture or video:{names}")
    outputs = _choose_outputs(images, args, checkpoint)
    if outputs[0] is None:
        log(f"[{label}]\tnothing is written: give --dir_out or --save_results")
    used_paths = {path.resolve() for path in files}
    failed, skipped = [], []
    sizes = [_count_pixels(path) for path in files]
    with progress_bar(total=sum(sizes), desc=label, unit="px", unit_scale=True) as bar:
        for source, output, n_pixels in zip(files, outputs, sizes, strict=True):
            before = bar.n
            bar.set_postfix_str(source.name)
            try:
                log(_upscale_file(source, output, config, args, used_paths, bar.update))
            except Skipped as kept:
                skipped.append(str(kept))
            except (UserError, OSError, MemoryError) as error:
                text = str(error) or type(error).__name__
                failed.append(text if str(source) in text else f"{source}: {text}")
                log(f"failed: {failed[-1]}")
            bar.update(n_pixels - (bar.n - before))  # for files that failed or were miscounted
    if skipped:
        listed = bullet_list(skipped, 5)
        log(f"[{label}]\t{len(skipped)} skipped, they exist (--overwrite replaces):{listed}")
    n_done, seconds = len(files) - len(failed) - len(skipped), time.perf_counter() - t_start
    counts = f"{n_done} of {len(files)} files, {seconds:.1f}s"
    log(f"[{label}]\tPSNR: n/a SSIM: n/a (no ground truth), {counts}")
    return failed
