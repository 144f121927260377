"""Upscale pictures and videos that have no ground truth: --data_test Demo and MyImage.

`picture.py` upscales the pixels of a picture, `video.py` the frames of a video, `outputs.py` names
and writes files. A file that fails is reported, and the others are upscaled.
"""

import contextlib
import time

from PIL import Image
from tqdm import tqdm

from data.datasets import VIDEO_EXTENSIONS
from data.image import image_size, read_image_with_metadata, write_image
from demo import video
from demo.outputs import output_paths, path_that_holds, write_picture
from demo.picture import UpscaleConfig, upscale_pixels
from runtime.files import UserError, bullet_list

MAX_LISTED = 5  # skipped files that the log names


class Skipped(Exception):
    """An output exists and is kept."""


def _is_video(path):
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _check_output(path, used_paths, overwrite):
    """Check that an output may be written."""
    # UserError: it is an input or the output of another input.
    # Skipped: it exists.
    if path.resolve() in used_paths:
        raise UserError(
            f"{path} is also an input or another output, so it is kept: change --dir_out"
        )
    if path.exists() and not overwrite:
        raise Skipped(str(path))


def _count_pixels(path):
    """Return the number of pixels of a picture or video; 0 if unknown."""
    # For a video it is the sum over all frames.
    try:
        if _is_video(path):
            return video.count_pixels(path)
        height, width = image_size(path)
        return height * width
    except Exception:  # a broken file is reported when it is upscaled
        return 0


def _page_note(path):
    """Return a note if only the first of several pages or frames is upscaled."""
    with contextlib.suppress(Exception), Image.open(path) as file:
        if getattr(file, "n_frames", 1) > 1:
            return f" (page 1 of {file.n_frames})"
    return ""


def pixel_progress(update, n_pixels):
    """Return a function of fractions that calls `update` with pixels, which sum up exactly."""
    done, reported = 0.0, 0

    def on_progress(fraction):
        nonlocal done, reported
        done += fraction
        update(round(done * n_pixels) - reported)
        reported = round(done * n_pixels)

    return on_progress


class _Job:
    """One call of `upscale_all`: the network, the flags and the state of the run."""

    def __init__(self, images, config, args, log):
        self.images, self.config, self.args, self.log = images, config, args, log
        self.used_paths = {path.resolve() for path in images.files}
        self.overwrite = args.overwrite or not args.dir_out
        self.failed, self.skipped, self.n_done = [], [], 0

    def run_file(self, source, output, update):
        """Upscale a file and log the result; record a skipped or failed file."""
        try:
            if output:
                _check_output(output, self.used_paths, self.overwrite)
                output.parent.mkdir(parents=True, exist_ok=True)
                self.used_paths.add(output.resolve())
            self.log(self._upscale_file(source, output, update))
            self.n_done += 1
        except Skipped as skipped:
            self.skipped.append(str(skipped))
        except (UserError, OSError, MemoryError) as error:
            text = str(error) or type(error).__name__
            self.failed.append(text if str(source) in text else f"{source}: {text}")
            self.log(f"failed: {self.failed[-1]}")

    def _upscale_file(self, source, output, update):
        """Upscale a picture or a video; return its line of the log."""
        t_start, note = time.perf_counter(), ""

        def upscale(pixels):
            on_progress = pixel_progress(update, pixels.shape[0] * pixels.shape[1])
            return upscale_pixels(pixels, self.config, on_progress)

        replaced = output and output.exists()
        if _is_video(source):
            before, after = video.upscale(source, output, upscale)
        else:
            pixels, metadata = read_image_with_metadata(source)
            note = _page_note(source)
            result = upscale(pixels)
            if output:
                output, reason = path_that_holds(output, result)
                if reason:
                    note += f" ({reason})"
                    _check_output(output, self.used_paths, self.overwrite)
                    replaced = output.exists()
                write_picture(output, result, metadata)
            if output and self.args.save_gt and not self.args.dir_out:
                stem = output.stem.removesuffix("_SR")
                write_image(output.with_name(f"{stem}_LR.png"), pixels, **metadata)
            before, after = ("{}x{}".format(*image.shape[1::-1]) for image in (pixels, result))
        seconds = time.perf_counter() - t_start
        where = f"{output or 'nowhere'} {after}{' (replaced)' if replaced else ''}"
        return f"{source.name}{note} {before} -> {where}, {seconds:.1f}s"


def _choose_outputs(images, args, checkpoint):
    """Return the output of each file by --dir_out or --save_results; None for each without them."""
    if args.dir_out:
        suffix = f"_x{images.scale}" if len(args.scale) > 1 else ""
        suffix += args.suffix or ""
        extension = f".{args.format or 'png'}"
        return output_paths(images.files, args.dir_out, suffix, extension)
    if args.save_results:
        folder = checkpoint.results_dir(images.name)
        return output_paths(images.files, folder, f"_x{images.scale}_SR")
    return [None] * len(images.files)


def upscale_all(images, upscaler, args, device, checkpoint):
    """Upscale the files of a set without ground truth.

    Nothing is recorded in metrics.jsonl.

    Args:
        images: data.testset.DemoSet.
        upscaler: model.inference.Upscaler.
        args: the flags.
        device: device of the network.
        checkpoint: Checkpoint, for its log and its folder.

    Returns:
        list of messages about the files that failed; they are logged, too.
    """
    t_start, log = time.perf_counter(), checkpoint.log
    label = f"{images.name} x{images.scale}"
    config = UpscaleConfig(upscaler, images.scale, args.n_colors, args.rgb_range, device)
    if images.skipped:
        names = bullet_list(images.skipped, len(images.skipped))
        log(f"[{label}]\tskipped, not a picture or video:{names}")
    outputs = _choose_outputs(images, args, checkpoint)
    if outputs[0] is None:
        log(f"[{label}]\tnothing is written: give --dir_out or --save_results")
    job = _Job(images, config, args, log)
    sizes = [_count_pixels(path) for path in images.files]
    with tqdm(
        total=sum(sizes), desc=label, unit="px", unit_scale=True, disable=None, leave=False
    ) as bar:
        for source, output, n_pixels in zip(images.files, outputs, sizes, strict=True):
            before = bar.n
            bar.set_postfix_str(source.name)
            job.run_file(source, output, bar.update)
            bar.update(n_pixels - (bar.n - before))  # for files that failed or were miscounted
    if job.skipped:
        listed = bullet_list(job.skipped, MAX_LISTED)
        log(f"[{label}]\t{len(job.skipped)} skipped, they exist (--overwrite replaces):{listed}")
    counts = f"{job.n_done} of {len(images.files)} files, {time.perf_counter() - t_start:.1f}s"
    log(f"[{label}]\tPSNR: n/a SSIM: n/a (no ground truth), {counts}")
    return job.failed
