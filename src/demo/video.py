"""Videos, frame by frame, through the ffmpeg of the optional package imageio-ffmpeg.

The output is MP4: H.264 (libx264 at CRF 14, 8 bits, 4:2:0) in the colours of BT.709, which every player knows, at the frame
rate of the input; its first audio track is copied, or turned into AAC where MP4 cannot hold it. Frames of a variable rate
are doubled or dropped so that picture and sound stay together. An odd side is made even by repeating its last row or
column, as H.264 in 4:2:0 needs. HDR is refused: 8 bits and BT.709 would show it flat.
"""

import contextlib
import logging

import numpy as np

from runtime.errors import UserError
from runtime.files import atomic_path

QUALITY = [
    "-crf",
    "14",
    "-preset",
    "medium",
]  # visually lossless; 0 is lossless, 23 libx264's default
BT709 = [
    "-colorspace",
    "bt709",
    "-color_primaries",
    "bt709",
    "-color_trc",
    "bt709",
    "-color_range",
    "tv",
]
# without these flags swscale takes short cuts between RGB and 4:2:0 that make each reading 1 to 1.5 steps darker
EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# chroma samples of 4:2:0 are at the left luma sample of two (MPEG-2 and later), not between them, as swscale takes it
TO_BT709 = [
    "-vf",
    f"scale={EXACT}:out_color_matrix=bt709:out_range=tv:out_h_chr_pos=0,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv",
]
AUDIO_OF_MP4 = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}
MATRICES = ("bt709", "bt470bg", "smpte170m", "bt601", "bt2020", "gbr")
CENTRED = ("mjpeg", "mpeg1video")  # codecs whose chroma samples are between the luma samples
HDR = ("smpte2084", "arib-std-b67")


def _ffmpeg(path):
    """Import imageio_ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            f"{path}: videos need the package imageio-ffmpeg: pip install imageio-ffmpeg"
        ) from error
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)
    return imageio_ffmpeg


def _open(path, output_params=()):
    """Start to read a video; give what is known of it and the generator of its frames.

    Raises:
        UserError: the package is missing, or the file is no video.
    """
    reader = _ffmpeg(path).read_frames(str(path), output_params=list(output_params))
    try:
        meta = next(reader)
        if meta["fps"] <= 0 or not all(meta["size"]):
            raise ValueError("no frame rate or size")
    except (
        Exception
    ) as error:  # OSError, IndexError and others, as the parsing of ffmpeg's text fails
        reader.close()
        raise UserError(
            f"{path}: cannot be read as a video ({str(error).strip().splitlines()[-1]})"
        ) from error
    return meta, reader


def _describe(path):
    """Give what is known of a video: fps, size (width, height), duration in seconds, pix_fmt, audio_codec if it has audio."""
    meta, reader = _open(path)
    reader.close()
    return meta


def n_pixels(path):
    """Count the pixels of all frames, as well as the file's header tells.

    Raises:
        UserError: the package is missing, or the file is no video.
    """
    meta = _describe(path)
    return round(meta["duration"] * meta["fps"]) * meta["size"][0] * meta["size"][1]


def exact_rate(fps):
    """Give the exact frame rate of one that ffmpeg has printed with two decimals: 29.97 is 30000 / 1001."""
    whole = round(fps * 1.001)
    return whole / 1.001 if abs(fps - whole / 1.001) < 0.005 < abs(fps - whole) else fps


def _even(frame):
    """Repeat the last row or column of a frame (H, W, 3) of an odd side."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _to_rgb(meta):
    """Give ffmpeg's options for reading frames as RGB to half a step.

    A video of 720 lines or more that does not say its colours is BT.709, by which players show it; ffmpeg takes BT.601.
    """
    tagged = any(name in meta["pix_fmt"] for name in MATRICES)
    matrix = "" if tagged or meta["size"][1] < 720 else ":in_color_matrix=bt709"
    chroma = "" if meta["codec"] in CENTRED else ":in_h_chr_pos=0"
    return ["-vf", f"scale={EXACT}{matrix}{chroma}"]


def _frames(reader, source, width, height):
    """Give the frames of a reader as (H, W, 3) uint8."""
    try:
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    except RuntimeError as error:  # imageio-ffmpeg raises it for a frame that is cut
        raise UserError(f"{source}: is broken ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def _writer(source, path, size, rate, audio):
    """Open a video of frames of `size` (width, height) with the sound of `source`; gives a function that takes its frames.

    Raises:
        UserError: ffmpeg could not write all frames.
    """
    ffmpeg, count = _ffmpeg(source), 0
    sound = (
        {"audio_path": str(source), "audio_codec": "copy" if audio in AUDIO_OF_MP4 else "aac"}
        if audio
        else {}
    )
    output = [*QUALITY, *TO_BT709, *BT709, "-movflags", "+faststart", "-f", "mp4"]
    how = {
        "fps": rate,
        "codec": "libx264",
        "quality": None,
        "macro_block_size": 1,
        "ffmpeg_log_level": "error",
    }
    writer = ffmpeg.write_frames(str(path), size, output_params=output, **how, **sound)
    writer.send(None)

    def send(frame):
        nonlocal count
        writer.send(np.ascontiguousarray(frame))
        count += 1

    try:
        with contextlib.closing(writer):
            yield send
        written, _ = ffmpeg.count_frames_and_secs(
            str(path)
        )  # nothing else tells that ffmpeg has failed
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{source}: ffmpeg cannot write its video: {str(error).strip().splitlines()[0]}"
        ) from error
    if written != count:
        raise UserError(
            f"{source}: ffmpeg has written {written} of {count} frames: is the disk full?"
        )


def upscale(source, target, upscale_frame):
    """Upscale a video, in memory of a few frames. The output appears whole or not at all.

    Args:
        source: the video.
        target: the .mp4 file, or None to write nothing.
        upscale_frame: maps (H, W, 3) uint8 to (H*scale, W*scale, 3) uint8.

    Returns:
        ("WxH, N frames", "WxH") of input and output.

    Raises:
        UserError: the package is missing, or the file is no video, or broken, or HDR.
    """
    meta = _describe(source)
    if any(name in meta["pix_fmt"] for name in HDR):
        raise UserError(
            f"{source}: is HDR ({meta['pix_fmt']}), which 8 bits cannot hold: turn it into SDR first"
        )
    (width, height), rate = meta["size"], exact_rate(meta["fps"])
    expected = meta["duration"] * meta["fps"]
    count, size, send = 0, None, None
    with (
        contextlib.ExitStack() as stack
    ):  # closed in reverse: the writer, then the file takes its name
        _, reader = _open(source, [*_to_rgb(meta), "-r", str(rate)])
        stack.enter_context(contextlib.closing(reader))
        partial = stack.enter_context(atomic_path(target)) if target else None
        for frame in _frames(reader, source, width, height):
            result = _even(upscale_frame(frame))
            size = result.shape[1::-1]
            if partial:
                send = send or stack.enter_context(
                    _writer(source, partial, size, rate, meta.get("audio_codec", "").strip(","))
                )
                send(result)
            count += 1
        if count < 0.95 * expected - 2 or not count:
            raise UserError(
                f"{source}: is broken: {count} of about {expected:.0f} frames can be read"
            )
    return f"{width}x{height}, {count} frames", "{}x{}".format(*size)
