"""Videos, frame by frame, through the ffmpeg of the optional package imageio-ffmpeg.

The output is MP4: H.264 (CRF 14, 8 bits, 4:2:0) in BT.709, which every player supports, at the rate
and with the pixel aspect ratio of the input; a variable rate becomes constant. The first audio
track is copied, or converted to AAC if MP4 cannot hold it. Odd sides, which 4:2:0 cannot have,
repeat their last row or column. Subtitles, chapters and further tracks are dropped. HDR is refused.
"""

import contextlib
import logging
import re
import subprocess

import numpy as np

from runtime.files import UserError, atomic_path
from runtime.process import pip_install

# visually lossless; CRF 0 is lossless, 23 is the default of libx264
QUALITY = ("-crf", "14", "-preset", "medium")
BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709")
BT709 += ("-color_trc", "bt709", "-color_range", "tv")
# without these flags, approximations of swscale darken each pixel by 1 to 1.5 steps
SWSCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# chroma samples of 4:2:0 lie at the left luma sample of two (MPEG-2 and later); swscale's default
# is between them
TO_BT709 = (
    f"scale={SWSCALE_FLAGS}:out_color_matrix=bt709:out_range=tv:out_h_chr_pos=0,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
AUDIO_OF_MP4 = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}
MATRICES = ("bt709", "bt470bg", "smpte170m", "bt601", "bt2020", "gbr")
# codecs with chroma samples between the luma samples
CENTERED_CHROMA_CODECS = ("mjpeg", "mpeg1video")
HDR = ("smpte2084", "arib-std-b67")
TRUNCATED = ("partial file", "ended prematurely", "corrupt")  # in messages of demuxers


def _ffmpeg(path):
    try:
        import imageio_ffmpeg
    except ImportError as error:
        how = pip_install("imageio-ffmpeg")
        raise UserError(f"{path}: videos need the package imageio-ffmpeg: {how}") from error
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)
    return imageio_ffmpeg


def _open(path, output_params=()):
    """Open a video; return its metadata and the generator of its frames."""
    # ffmpeg takes the start of a relative name with a colon for a protocol
    reader = _ffmpeg(path).read_frames(str(path.absolute()), output_params=list(output_params))
    try:
        meta = next(reader)
        if meta["fps"] <= 0 or not all(meta["size"]):
            raise ValueError("no frame rate or size")
    except Exception as error:  # parsing ffmpeg's text raises OSError, IndexError and others
        reader.close()
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as a video ({reason})") from error
    return meta, reader


def read_metadata(path):
    """Return a dict: fps, size (width, height), duration (s), pix_fmt, audio_codec if any."""
    meta, reader = _open(path)
    reader.close()
    if any(name in meta["pix_fmt"] for name in HDR):
        hdr = f"is HDR ({meta['pix_fmt']}), which 8 bits cannot hold"
        raise UserError(f"{path}: {hdr}: make it SDR first")
    return meta


def _run_ffmpeg(path, *options):
    """Return the messages of ffmpeg that reads a video and writes nothing."""
    command = [_ffmpeg(path).get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", path.absolute()]
    done = subprocess.run([*command, *options, "-f", "null", "-"], capture_output=True)
    return done.stderr.decode(errors="replace")


def _pixel_aspect(path):
    """Return a pixel's aspect ratio, after a rotation of the video: "32/27"; "1" if unknown."""
    text = re.findall(r"^ *Stream.*Video:.*", _run_ffmpeg(path, "-frames:v", "1"), re.M)[-1:]
    match = re.search(r"SAR ([1-9]\d*):([1-9]\d*)", "".join(text))
    return f"{match[1]}/{match[2]}" if match else "1"


def _count_own_frames(path, rate):
    """Return the number of frames of a video's picture, and whether its file is cut off."""
    # from its packets: the header has the length of the longest track alone
    text = _run_ffmpeg(path, "-map", "0:v:0", "-c", "copy", "-stats")
    is_cut = any(word in text for word in TRUNCATED)
    hours, minutes, seconds = (re.findall(r"time=(\d+):(\d+):([\d.]+)", text) or [(0, 0, 0)])[-1]
    return (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * rate + 1, is_cut


def exact_rate(fps):
    """Return the exact rate of one printed with two decimals: 30000 / 1001 for 29.97."""
    nominal = round(fps * 1.001)
    is_ntsc = abs(fps - nominal / 1.001) < 0.005 < abs(fps - nominal)
    return nominal / 1.001 if is_ntsc else fps


def _rgb_options(meta):
    """Return ffmpeg's options for reading frames as RGB, with an error of at most half a step."""
    # an untagged video of 720 lines or more is read as BT.709, as players do; ffmpeg assumes BT.601
    tagged = any(name in meta["pix_fmt"] for name in MATRICES)
    matrix = "" if tagged or meta["size"][1] < 720 else ":in_color_matrix=bt709"
    chroma = "" if meta["codec"] in CENTERED_CHROMA_CODECS else ":in_h_chr_pos=0"
    return ["-vf", f"scale={SWSCALE_FLAGS}{matrix}{chroma}"]


def _read_frames(source, meta, rate):
    """Yield the frames of a video as (H, W, 3) uint8; raise UserError if some are missing."""
    (width, height), expected, count = meta["size"], meta["duration"] * meta["fps"], 0
    _, reader = _open(source, [*_rgb_options(meta), "-r", str(rate)])
    with contextlib.closing(reader):
        try:
            for frame in reader:
                yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
                count += 1
        except RuntimeError as error:  # imageio-ffmpeg raises it for a truncated frame
            raise UserError(f"{source}: is broken ({str(error).splitlines()[0]})") from error
    if count < 0.95 * expected - 2:
        expected, is_cut = _count_own_frames(source, rate)
        if is_cut:
            raise UserError(f"{source}: is broken: it ends after {count} frames, in mid-file")
    if count < 0.95 * expected - 2 or not count:
        found = f"{count} of about {expected:.0f} frames can be read"
        raise UserError(f"{source}: is broken: {found}")


@contextlib.contextmanager
def _writer(source, path, size, rate, audio):
    """Open an output video of a size (width, height); yield a function that takes its frames.

    The sound is copied from `source`; `audio` is its codec, or an empty string.
    """
    ffmpeg, count = _ffmpeg(source), 0
    filters = ["-vf", f"{TO_BT709},setsar={_pixel_aspect(source)}"]
    output = [*QUALITY, *filters, *BT709, "-movflags", "+faststart", "-f", "mp4"]
    options = {"output_params": output, "fps": rate, "codec": "libx264", "quality": None}
    if audio:
        codec = "copy" if audio in AUDIO_OF_MP4 else "aac"
        options |= {"audio_path": str(source.absolute()), "audio_codec": codec}
    options |= {"macro_block_size": 1, "ffmpeg_log_level": "error"}
    writer = ffmpeg.write_frames(str(path), size, **options)
    writer.send(None)

    def send(frame):
        nonlocal count
        writer.send(np.ascontiguousarray(frame))
        count += 1

    written = 0
    try:
        with contextlib.closing(writer):
            yield send
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: ffmpeg cannot write its video: {reason}") from error
    with contextlib.suppress(RuntimeError):  # a missing frame is the only sign of some failures
        written, _ = ffmpeg.count_frames_and_secs(str(path))
    if written != count:
        missing = f"ffmpeg has written {written} of {count} frames"
        raise UserError(f"{source}: {missing}; is the disk full?")


def upscale(source, output, upscale_frame):
    """Upscale a video atomically to an .mp4 file, or to None, with the memory of a few frames.

    `upscale_frame` maps (H, W, 3) uint8 to (H*scale, W*scale, 3) uint8. Return ("WxH, N frames",
    "WxH") of input and output.
    """
    meta = read_metadata(source)
    rate, audio = exact_rate(meta["fps"]), meta.get("audio_codec", "").strip(",")
    count, size, send = 0, None, None
    with contextlib.ExitStack() as stack:  # closed in reverse: the writer, then the rename
        frames = stack.enter_context(contextlib.closing(_read_frames(source, meta, rate)))
        partial = stack.enter_context(atomic_path(output)) if output else None
        for frame in frames:
            result = upscale_frame(frame)
            odd = [side % 2 for side in result.shape[:2]]
            result = np.pad(result, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
            size = result.shape[1::-1]
            if partial:
                send = send or stack.enter_context(_writer(source, partial, size, rate, audio))
                send(result)
            count += 1
    return "{}x{}, {} frames".format(*meta["size"], count), "{}x{}".format(*size)
