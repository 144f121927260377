"""Upscaling videos through the optional package imageio-ffmpeg."""

import signal
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest

from data.resize import imresize
from demo import video
from helpers import ForkedProgram

# weights of red and blue in luma; the second is BT.601
KR_KB = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}


def ffmpeg(*argv, data=b""):
    """Run ffmpeg on `data` at its stdin; return its stdout. Skip the test if it is missing."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *"-y -hide_banner -loglevel error".split()]
    command += map(str, argv)
    return subprocess.run(command, check=True, input=data, capture_output=True).stdout


def rgb_of(yuv, matrix, full=False):
    """Turn Y, U, V in [0, 255] (last axis) into RGB in [0, 255] by the formula of the standard, without rounding."""
    kr, kb = KR_KB[matrix]
    black, steps, chroma_steps = (0, 255, 255) if full else (16, 219, 224)
    y = (yuv[..., 0] - black) * (255 / steps)
    u, v = ((yuv[..., i] - 128) * (255 / chroma_steps) for i in (1, 2))
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], axis=-1)


def known_colors(x, y):
    """Give Y, U, V at x, y (luma pixels, 64 x 48): waves of color above, patches of 16 pixels below."""
    wave = 2 * np.abs(x % 32 - 16) + (y - 0.5) / 2  # whole numbers at the chroma samples
    waves = np.stack([90 + x + y, 112 + wave, 144 - wave], axis=-1)
    number = x // 16 + 4 * (y // 16 - 1)
    patches = np.stack([60 + 19 * number, 116 + 11 * number % 25, 116 + 17 * number % 25], axis=-1)
    return np.where((y < 16)[..., None], waves, patches)


def check_colors(rgb, yuv, matrix, full, most):
    """Compare rgb (48, 64, 3) of `known_colors` with the exact values of yuv, away from edges."""
    error = rgb - rgb_of(yuv, matrix, full)
    waves = error[2:12].reshape(10, 2, 32, 3)
    patches = error[16:].reshape(2, 16, 4, 16, 3)[:, 4:12, :, 4:12]
    falling, rising = waves[:, :, 4:13], waves[:, :, 20:29]
    assert max(np.abs(part).max() for part in (patches, falling, rising)) < most
    assert np.abs(patches.mean((0, 1, 2, 3))).max() < 0.5, "the colors are shifted"
    assert np.abs((falling + rising).mean((0, 1, 2))).max() / 2 < 0.7, "the colors are shifted"
    assert np.abs((falling - rising).mean((0, 1, 2))).max() / 2 < 0.6, "the colors are elsewhere"


def grid(width, height):
    return np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))


def planes_of(yuv_at, x, y):
    """Sample Y at the pixels x, y; U and V of 4:2:0 at the left and halfway down each square of four, where they belong."""
    chroma = yuv_at(x[::2, ::2], y[::2, ::2] + 0.5)
    return yuv_at(x, y)[..., 0], chroma[..., 1], chroma[..., 2]


def clip_of_known_colors(path, matrix, full, tagged, lines):
    """Write 4 frames of `known_colors`, without loss and without any conversion by ffmpeg; below line 48 its last line."""
    x, y = grid(64, lines)
    planes = planes_of(lambda x, y: known_colors(x, np.minimum(y, 47)), x, y)
    data = b"".join(np.rint(plane).astype(np.uint8).tobytes() for plane in planes)
    tag = matrix if tagged else "unknown"
    colors = f"setparams=range={'pc' if full else 'tv'}:colorspace={tag}"
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"64x{lines}", "-r", 10)
    ffmpeg(*raw, "-i", "-", "-vf", colors, "-c:v", "libx264", "-qp", 0, path, data=4 * data)
    return path


def make(path, *codec, size="48x36", rate="25", seconds=0.6, filters="null", sound=()):
    """Write a test clip of moving colors, with a tone if `sound` names a codec."""
    tone = ["-f", "lavfi", "-i", f"sine=440:d={seconds}", "-c:a", *sound] if sound else []
    picture = f"testsrc2=s=96x72:r={rate}:d={seconds},scale={size},{filters}"
    ffmpeg("-f", "lavfi", "-i", picture, *tone, *codec, path)
    return path


def frames_of(path):
    """Give what is known of a video with chroma at the left, and its frames as an array (N, H, W, 3)."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    exact = ["-vf", f"scale={video.SWSCALE_FLAGS}:in_h_chr_pos=0"]
    reader = imageio_ffmpeg.read_frames(str(path), output_params=exact)
    meta = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(*meta["size"][::-1], 3) for frame in reader]
    return meta, np.stack(frames)


def test_frames_rate_and_sound_are_kept(upscale, tmp_path):
    clip = make(tmp_path / "ein Film ü.mp4", rate="30000/1001", sound=("aac",))
    status, out, err = upscale(clip)
    assert status == 0, err
    assert "48x36, 18 frames" in out
    assert [path.name for path in upscale.out.iterdir()] == [clip.name]
    meta, result = frames_of(upscale.out / clip.name)
    before, source = frames_of(clip)
    assert result.shape == (18, 72, 96, 3)
    assert (meta["fps"], meta["audio_codec"]) == (29.97, "aac")
    assert "bt709" in meta["pix_fmt"]
    assert "unknown" not in meta["pix_fmt"], "a part of the colors is not said"
    assert meta["duration"] == pytest.approx(before["duration"], abs=0.03)
    for frame, lr in zip(result, source, strict=True):
        error = frame.astype(float) - imresize(lr, 2)
        assert np.abs(error).mean() < 8  # what 8 bits in 4:2:0 leave of these saturated colors


def test_odd_sizes_and_other_containers(upscale, tmp_path):
    (tmp_path / "in").mkdir()
    mjpeg = {"size": "49x37", "filters": "format=yuvj444p"}
    make(tmp_path / "in/odd.avi", "-c:v", "mjpeg", "-q:v", 2, **mjpeg)
    make(tmp_path / "in/pcm.mov", rate="10", sound=("pcm_s16le",))
    assert upscale(tmp_path / "in", "--scale", 3)[0] == 0
    meta, odd = frames_of(upscale.out / "odd.mp4")
    assert odd.shape == (15, 112, 148, 3)
    assert "audio_codec" not in meta
    rows = np.abs(np.diff(odd[:, -2:].astype(int), axis=1))
    columns = np.abs(np.diff(odd[:, :, -2:].astype(int), axis=2))
    assert max(rows.mean(), columns.mean()) < 2, "the added row and column repeat the last"
    meta, result = frames_of(upscale.out / "pcm.mp4")
    assert (meta["fps"], meta["audio_codec"], len(result)) == (10, "aac", 6)


KINDS = [  # matrix, full range, whether the file says so, lines
    ("smpte170m", False, True, 48),
    ("smpte170m", False, False, 48),
    ("smpte170m", True, True, 48),
    ("bt709", False, True, 48),
    ("bt709", True, True, 48),
    ("bt709", False, False, 720),
]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_read_in_their_exact_colors(tmp_path, kind):
    frames, clip = [], clip_of_known_colors(tmp_path / "clip.mp4", *kind)
    video.upscale(clip, None, lambda frame: frames.append(frame) or frame)
    most = 0.7  # of the rounding of RGB
    check_colors(frames[2][:48], known_colors(*grid(64, 48)), *kind[:2], most)


@pytest.mark.parametrize("kind", KINDS[::5])  # all are read alike, see above
def test_colors_stay_from_file_to_file(upscale, tmp_path, kind):
    assert upscale(clip_of_known_colors(tmp_path / "clip.mp4", *kind))[0] == 0
    width, height = 128, 2 * kind[3]
    raw = ffmpeg("-i", upscale.out / "clip.mp4", "-f", "rawvideo", "-")  # planes as they are stored
    planes = np.frombuffer(raw, np.uint8).reshape(4, -1)[2].astype(float)
    luma, *chroma = np.split(planes, np.cumsum([width * height, width * height // 4]))
    luma, chroma = luma.reshape(-1, width), [plane.reshape(-1, 64) for plane in chroma]
    luma = (luma[::2, ::2] + luma[1::2, ::2]) / 2  # where the chroma samples are
    result = rgb_of(np.stack([luma, *chroma], axis=-1), "bt709")
    x, y = grid(64, 48)
    most = 6  # of the rounding of U and V, and x264
    check_colors(result[:48], known_colors(x - 0.25, y), *kind[:2], most)


def test_a_variable_rate_keeps_the_length(upscale, tmp_path):
    drop = "select='not(between(n,6,17))'"
    clip = make(tmp_path / "vfr.mp4", "-fps_mode", "vfr", rate=30, seconds=1, filters=drop)
    assert upscale(clip)[0] == 0
    meta, result = frames_of(upscale.out / "vfr.mp4")
    assert meta["duration"] == pytest.approx(1, abs=0.12)
    assert len(result) == pytest.approx(meta["duration"] * meta["fps"], abs=1)


@pytest.mark.parametrize("longer", ["sound.mp4", "sound.webm", "subtitles.mkv"])
def test_other_tracks_may_outlast_the_picture(upscale, tmp_path, longer):
    clip = tmp_path / longer
    picture = make(tmp_path / f"picture{clip.suffix}", rate="10", seconds=2)
    (tmp_path / "late.srt").write_text("1\n00:00:01,000 --> 00:00:09,000\nwords\n")
    sound = ["-f", "lavfi", "-i", "sine=440:d=5"]
    ffmpeg("-i", picture, *(sound if "sound" in longer else ["-i", tmp_path / "late.srt"]), clip)
    status, out, err = upscale(clip)
    assert status == 0, err
    assert "20 frames" in out
    meta, result = frames_of(upscale.out / f"{clip.stem}.mp4")
    assert len(result) == 20
    if "sound" in longer:
        assert meta["duration"] == pytest.approx(5, abs=0.1), "the sound is cut"


def test_the_aspect_of_a_pixel_is_kept(upscale, tmp_path):
    (tmp_path / "in").mkdir()
    wide = make(tmp_path / "in/wide.mp4", filters="setsar=32/27", seconds=0.2)
    ffmpeg("-display_rotation", 90, "-i", wide, "-c", "copy", tmp_path / "in/turned.mp4")
    make(tmp_path / "in/square.mp4", seconds=0.2)
    assert upscale(tmp_path / "in")[0] == 0
    for name, aspect in (("wide", "32/27"), ("turned", "27/32"), ("square", "1/1")):
        assert video._pixel_aspect(upscale.out / f"{name}.mp4") == aspect


def test_broken_videos_leave_nothing(upscale, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    more = {"size": "192x144", "seconds": 3, "sound": ("aac",)}
    whole = make(tmp_path / "whole.mp4", "-movflags", "+faststart", **more)
    (source / "half.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (source / "text.mp4").write_text("no video")
    pq = "format=yuv420p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"
    make(source / "hdr.mp4", filters=pq)
    make(source / "good.mp4", seconds=0.1)
    status, _, err = upscale(source)
    assert status == 1
    for words in (
        "half.mp4: is broken: ",
        "text.mp4: cannot be read as a video",
        "hdr.mp4: is HDR",
    ):
        assert words in err
    assert [path.name for path in upscale.out.iterdir()] == ["good.mp4"]


def test_an_interrupt_leaves_no_half_video(upscale, tmp_path, sr):
    clip = make(tmp_path / "long.mp4", size="192x144", seconds=10)
    where = ["--dir_experiment", sr.experiments, "--dir_demo", clip, "--dir_out", upscale.out]
    flags = "--model Bicubic --scale 2 --data_test Demo --test_only --cpu --self_ensemble".split()
    process = ForkedProgram([*flags, *where])
    deadline = time.monotonic() + 30
    while not list(upscale.out.glob(".long.mp4.*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip() == "interrupted"
    assert list(upscale.out.iterdir()) == []


def test_without_the_package_a_sentence_says_what_to_install(upscale, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    status, _, err = upscale(tmp_path / "clip.mp4")
    assert status == 1
    assert "clip.mp4: videos need the package imageio-ffmpeg: " in err
    assert "pip install imageio-ffmpeg" in err


def test_exact_rates():
    for rate in (Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)):
        assert Fraction(video.exact_rate(round(float(rate), 2))).limit_denominator(2000) == rate
    for rate in (24.0, 25.0, 30.0, 12.5, 29.5):
        assert video.exact_rate(rate) == rate
