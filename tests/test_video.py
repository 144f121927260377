"""Upscaling videos through the optional package imageio-ffmpeg."""

import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import video
from data.resize import imresize

try:
    import imageio_ffmpeg
except ImportError:
    imageio_ffmpeg = None
needs_ffmpeg = pytest.mark.skipif(imageio_ffmpeg is None, reason="imageio-ffmpeg is not installed: pip install imageio-ffmpeg")


def ffmpeg(*argv):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-hide_banner", "-loglevel", "error", *map(str, argv)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make(path, *codec, size="48x36", rate="25", seconds=0.6, filters="null", sound=()):
    """Write a test clip of moving colours, with a tone if `sound` names a codec."""
    tone = ["-f", "lavfi", "-i", f"sine=440:d={seconds}", "-c:a", *sound] if sound else []
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=96x72:r={rate}:d={seconds},scale={size},{filters}", *tone, *codec, path)
    return path


def frames_of(path):
    """Give what is known of a video, and its frames as an array (N, H, W, 3)."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(*meta["size"][::-1], 3) for frame in reader]
    return meta, np.stack(frames)


@pytest.fixture
def upscale(sr, tmp_path):
    """upscale(source, *flags) runs the program on a file or folder; the outputs are in upscale.out."""

    class Upscale:
        out = tmp_path / "out"
        bicubic = ("--model", "Bicubic", "--scale", 2)

        def argv(self, source, *flags):
            where = ("--data_test", "Demo", "--dir_demo", source, "--dir_out", self.out, "--test_only", "--cpu")
            return [*self.bicubic, *where, *flags]

        def __call__(self, source, *flags):
            return sr(*self.argv(source, *flags))

    return Upscale()


@needs_ffmpeg
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
    assert "unknown" not in meta["pix_fmt"], "a part of the colours is not said"
    assert meta["duration"] == pytest.approx(before["duration"], abs=0.03)
    for frame, lr in zip(result, source, strict=True):
        error = frame.astype(float) - imresize(lr, 2)
        assert np.abs(error).mean() < 8  # what 8 bits in 4:2:0 leave of these saturated colours
        assert np.abs(error.mean((0, 1))).max() < 2, "the colours are shifted"


@needs_ffmpeg
def test_odd_sizes_and_other_containers(upscale, tmp_path):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in/odd.avi", "-c:v", "mjpeg", "-q:v", 2, size="49x37", filters="format=yuvj444p")
    make(tmp_path / "in/pcm.mov", rate="10", sound=("pcm_s16le",))
    assert upscale(tmp_path / "in", "--scale", 3)[0] == 0
    meta, odd = frames_of(upscale.out / "odd.mp4")
    assert odd.shape == (15, 112, 148, 3)
    assert "audio_codec" not in meta
    rows, columns = (np.abs(np.diff(odd[:, -2:].astype(int), axis=1)), np.abs(np.diff(odd[:, :, -2:].astype(int), axis=2)))
    assert max(rows.mean(), columns.mean()) < 2, "the added row and column repeat the last"
    meta, result = frames_of(upscale.out / "pcm.mp4")
    assert (meta["fps"], meta["audio_codec"], len(result)) == (10, "aac", 6)


@needs_ffmpeg
@pytest.mark.parametrize(("tag", "lines"), [("bt709", 36), ("smpte170m", 36), ("unknown", 36), ("unknown", 720)])
def test_colours_of_every_matrix(upscale, tmp_path, tag, lines):
    matrix = "bt709" if tag == "bt709" or lines >= 720 else "smpte170m"
    filters = f"lutrgb=r=190:g=45:b=30,scale=out_color_matrix={matrix},format=yuv420p,setparams=colorspace={tag}"
    clip = make(tmp_path / "red.mp4", "-crf", 1, size=f"16x{lines}", rate=10, seconds=0.2, filters=filters)
    assert upscale(clip)[0] == 0
    assert np.abs(frames_of(upscale.out / "red.mp4")[1].astype(int) - (190, 45, 30)).max() <= 4


@needs_ffmpeg
def test_a_variable_rate_keeps_the_length(upscale, tmp_path):
    drop = "select='not(between(n,6,17))'"
    clip = make(tmp_path / "vfr.mp4", "-fps_mode", "vfr", rate=30, seconds=1, filters=drop)
    assert upscale(clip)[0] == 0
    meta, result = frames_of(upscale.out / "vfr.mp4")
    assert meta["duration"] == pytest.approx(1, abs=0.12)
    assert len(result) == pytest.approx(meta["duration"] * meta["fps"], abs=1)


@needs_ffmpeg
def test_broken_videos_leave_nothing(upscale, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    whole = make(tmp_path / "whole.mp4", "-movflags", "+faststart", size="192x144", seconds=3, sound=("aac",))
    (source / "half.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (source / "text.mp4").write_text("no video")
    pq = "format=yuv420p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"
    make(source / "hdr.mp4", filters=pq)
    make(source / "good.mp4", seconds=0.1)
    status, _, err = upscale(source)
    assert status == 1
    for words in ("half.mp4: is broken: ", "text.mp4: cannot be read as a video", "hdr.mp4: is HDR"):
        assert words in err
    assert [path.name for path in upscale.out.iterdir()] == ["good.mp4"]


@needs_ffmpeg
def test_an_interrupt_leaves_no_half_video(upscale, tmp_path, sr):
    clip = make(tmp_path / "long.mp4", size="192x144", seconds=10)
    main = Path(__file__).resolve().parent.parent / "src/main.py"
    command = [sys.executable, main, "--dir_experiment", sr.experiments, *upscale.argv(clip, "--self_ensemble")]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
    assert "clip.mp4: videos need the package imageio-ffmpeg: pip install imageio-ffmpeg" in err


def test_exact_rates():
    for rate in (Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)):
        assert Fraction(video.exact_rate(round(float(rate), 2))).limit_denominator(2000) == rate
    for rate in (24.0, 25.0, 30.0, 12.5, 29.5):
        assert video.exact_rate(rate) == rate
