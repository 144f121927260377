"""Data preparation: downloads that fail in every way, archives that nobody should unpack, and what lies there afterwards."""

import io
import itertools
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import prepare_data
import pytest
from file_server import FileServer
from helpers import write_set

import data.archive
from data.download import fetch, file_sha256
from data.image import read_image, write_image
from data.resize import downsample

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/prepare_data.py"


@pytest.fixture
def run(capsys):
    """Run the script in this process: run("folder", ...) gives (exit status, output, errors)."""

    def call(*argv):
        status = prepare_data.main([*map(str, argv), "--jobs", "1"])
        return status, *capsys.readouterr()

    return call


def png(image):
    """Give the PNG file of an image as bytes."""
    return iio.imwrite("<bytes>", image, extension=".png")


def zip_of(files):
    """Give a zip archive {name: bytes} as bytes; a name may be a ZipInfo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files):
    """Give a tar archive {name: bytes} as bytes; in place of bytes (type, target) for links and devices."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def set5(photographs):
    """Give benchmark.tar with Set5 alone, HR and LR X2, and what does not belong there."""
    hr = {name: photographs["coffee"][i : 60 + i, :70] for i, name in enumerate(["baby", "bird", "butterfly", "head", "woman"])}
    files = {"benchmark/Set5/bin/baby.pkl": b"not wanted", "benchmark/Set5/HR/._baby.png": b"not wanted"}
    for name, image in hr.items():
        files[f"benchmark/Set5/HR/{name}.png"] = png(image)
        files[f"benchmark/Set5/LR_bicubic/X2/{name}x2.png"] = png(downsample(image, 2))
    return tar_of(files)


@pytest.fixture
def server(set5):
    with FileServer({"benchmark.tar": set5}) as running:
        yield running


@pytest.fixture
def benchmark(run, server, tmp_path):
    """Run `benchmark` for Set5 from the local server into tmp_path/data."""
    return lambda *argv: run(
        "benchmark", "--sets", "Set5", "--scale", 2, "--dir_data", tmp_path / "data", "--url", server.url, "--retries", 1, *argv
    )


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


SET5 = sorted(
    [f"benchmark/Set5/HR/{name}.png" for name in ("baby", "bird", "butterfly", "head", "woman")]
    + [f"benchmark/Set5/LR_bicubic/X2/{name}x2.png" for name in ("baby", "bird", "butterfly", "head", "woman")]
)

# ---------------------------------------------------------------- the sets


def test_div2k_is_laid_out_trained_and_not_fetched_again(run, sr, photographs, tmp_path):
    train, valid = photographs["coffee"][:48, :60], photographs["chelsea"][:48, :60]
    hr, lr = png(train), png(downsample(train, 2))
    files = {
        "DIV2K_train_HR.zip": zip_of({f"DIV2K_train_HR/{i:04d}.png": hr for i in range(1, 801)}),
        "DIV2K_valid_HR.zip": zip_of({f"DIV2K_valid_HR/{i:04d}.png": png(valid) for i in range(801, 901)}),
        "DIV2K_train_LR_bicubic_X2.zip": zip_of({f"DIV2K_train_LR_bicubic/X2/{i:04d}x2.png": lr for i in range(1, 801)}),
    }
    root = tmp_path / "data"
    with FileServer(files) as server:
        command = ["div2k", "--scale", "2", "--dir_data", root, "--url", server.url.rstrip("/")]
        status, out, err = run(*command)
        assert status == 0, err
        assert "DIV2K: 900 images" in out
        assert "DIV2K_valid_LR_bicubic_X2.zip: the server has none" in out
        assert "X2 of 100 images" in out, "LR images that were fetched are not made again"
        before = len(server.requests)
        assert run(*command)[0] == 0
        assert len(server.requests) == before, "fetched again"
    assert files_in(root) == sorted(
        f"DIV2K/DIV2K_train_{place}.png" for i in range(1, 901) for place in (f"HR/{i:04d}", f"LR_bicubic/X2/{i:04d}x2")
    )
    assert np.array_equal(read_image(root / "DIV2K/DIV2K_train_LR_bicubic/X2/0801x2.png"), downsample(valid, 2))
    flags = "--data_test DIV2K --ext img --patch_size 32 --test_every 1 --epochs 1 --save_results --save_gt --data_range"
    status, out, err = sr.train(*flags.split(), "1-4/801-802", data=root)
    assert status == 0, err
    assert np.array_equal(read_image(sr.folder("test") / "results-DIV2K/0801_x2_HR.png"), valid)


def test_div2k_takes_what_lies_beside_and_names_what_is_missing(run, photographs, tmp_path):
    beside = tmp_path / "DIV2K/DIV2K_valid_HR"
    write_set(beside, {f"{i:04d}": photographs["coffee"][:20, :20] for i in range(801, 901)})
    with FileServer({"DIV2K_train_HR.zip": zip_of({"DIV2K_train_HR/0001.png": (beside / "0801.png").read_bytes()})}) as server:
        status, out, err = run("div2k", "--scale", 8, "--dir_data", tmp_path, "--url", server.url)
    assert status == 1
    assert [name for name, _, _ in server.requests] == ["DIV2K_train_HR.zip"]
    assert "held 1 of the 800 images" in err
    assert "DIV2K: 101 images" in out
    assert "missing: 799 images" in out
    assert (tmp_path / "DIV2K/DIV2K_train_HR/0900.png").is_file()


def test_benchmark_says_what_is_there_and_what_is_missing(benchmark, run, photographs, server, tmp_path):
    status, out, _ = benchmark()
    assert status == 0
    assert files_in(tmp_path / "data") == SET5
    assert "Set5: 5 images" in out
    assert "LR images X2" in out
    assert "missing: 100 images" in out
    assert "manga109.org" in out
    assert "missing: 109 images: fetch it by hand" in out
    mangas = {f"m{i:03d}": photographs["rocket"][:20, :20] for i in range(109)}
    assert run("benchmark", "--sets", "Manga109", "--dir_data", tmp_path / "data", "--url", server.url)[0] == 1
    write_set(tmp_path / "data/benchmark/Manga109/HR", mangas)
    status, out, _ = run("benchmark", "--sets", "Manga109+Set5", "--scale", "2+4", "--dir_data", tmp_path / "data")
    assert status == 0
    assert len(list((tmp_path / "data/benchmark/Manga109/LR_bicubic/X4").iterdir())) == 109
    assert len(server.requests) == 1


def test_sample_and_lr_alone(run, tmp_path):
    status, out, _ = run("sample", "--scale", "8", "--dir_data", tmp_path)
    assert status == 0
    assert "sample_train: 11 images" in out
    train, test = ({p.name for p in (tmp_path / name / "HR").iterdir()} for name in ("sample_train", "sample_test"))
    assert len(test) == 3
    assert not train & test
    assert run("lr", tmp_path / "sample_test/HR", "--lr", tmp_path / "lr", "--scale", "16")[0] == 0
    hr = read_image(tmp_path / "sample_test/HR/coffee.png")
    assert np.array_equal(read_image(tmp_path / "lr/X16/coffeex16.png"), downsample(hr, 16))


def test_a_folder_becomes_a_set(run, tmp_path, photographs, sr):
    write_set(tmp_path / "photos", photographs)
    command = ["folder", str(tmp_path / "photos"), "Mine", "--dir_data", str(tmp_path / "data"), "--scale", "2+3"]
    done = subprocess.run([sys.executable, SCRIPT, *command, "--jobs", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 files written" in done.stdout
    for name, hr in photographs.items():
        for scale in (2, 3):
            lr = read_image(tmp_path / f"data/Mine/LR_bicubic/X{scale}/{name}x{scale}.png")
            assert np.array_equal(lr, downsample(hr, scale))
    status, out, _ = sr(*"--model Bicubic --test_only --data_test Mine --scale 2+3 --cpu".split(), data=tmp_path / "data")
    assert status == 0
    assert "[Mine x3]" in out


def test_what_is_done_is_skipped_and_what_changed_is_not(run, tmp_path, photographs):
    write_set(tmp_path / "photos", photographs)
    command = ["folder", tmp_path / "photos", "Mine", "--dir_data", tmp_path, "--scale", "2"]
    run(*command)
    (tmp_path / "Mine/LR_bicubic/X2/coffeex2.png").write_bytes(b"half a fi")  # as another program may leave it
    write_image(tmp_path / "photos/rocket.png", photographs["chelsea"])
    os.utime(tmp_path / "photos/rocket.png", (1, 1))  # another image, of the same size, older than the LR image
    status, out, _ = run(*command)
    assert status == 0
    assert "3 files written" in out
    assert "3 of them in place of" in out
    assert np.array_equal(read_image(tmp_path / "Mine/LR_bicubic/X2/rocketx2.png"), downsample(photographs["chelsea"], 2))
    assert np.array_equal(read_image(tmp_path / "Mine/HR/rocket.png"), photographs["chelsea"])
    status, out, _ = run(*command)
    assert status == 0
    assert "0 files written" in out


def test_bad_images_are_named_and_the_good_are_done(run, tmp_path, photographs):
    write_set(tmp_path / "photos", photographs | {"tiny": photographs["coffee"][:1, :1]})
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG")
    status, _, err = run("folder", tmp_path / "photos", "Mine", "--dir_data", tmp_path, "--scale", "2")
    assert status == 1
    assert "broken.png" in err
    assert "tiny.png" in err
    assert len(list((tmp_path / "Mine/LR_bicubic/X2").iterdir())) == 4
    assert run("folder", tmp_path / "none", "Other", "--dir_data", tmp_path)[0] == 1
    assert not (tmp_path / "Other").exists()
    for bad in (
        ["folder", "x", "../out"],
        ["div2k", "--scale", "1"],
        ["benchmark", "--sets", "Set6"],
        ["sample", "--scale", "2+2"],
        ["sample", "--jobs", "0"],
        ["benchmark", "--sha256", "benchmrk.tar=" + "0" * 64],
    ):
        with pytest.raises(SystemExit):
            prepare_data.main(bad)


# --------------------------------------------------------------- downloads


def test_a_broken_download_goes_on_where_it_was(benchmark, server, tmp_path):
    server.faults["benchmark.tar"] = iter([{"cut": 5000}, {"cut": 3000}, {"cut": 2000}])
    status, out, err = benchmark()  # with one attempt after each that brings nothing
    assert status == 0, err
    assert [asked for _, asked, _ in server.requests] == [None, "bytes=5000-", "bytes=8000-", "bytes=10000-"]
    assert files_in(tmp_path / "data") == SET5
    assert "going on at" in out


def test_a_killed_download_goes_on_where_it_was(server, set5, tmp_path):
    server.faults["benchmark.tar"] = iter([{"stall": 7000}])
    command = [
        sys.executable,
        SCRIPT,
        "benchmark",
        "--sets",
        "Set5",
        "--scale",
        "2",
        "--dir_data",
        tmp_path,
        "--url",
        server.url,
    ]
    part = tmp_path / "benchmark.tar.part"
    with subprocess.Popen([*command, "--keep"], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size >= 1024) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.go_on.set()
    kept = part.stat().st_size
    done = subprocess.run([*command, "--keep"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert server.requests[1] == ("benchmark.tar", f"bytes={kept}-", 206)
    assert (tmp_path / "benchmark.tar").read_bytes() == set5
    assert files_in(tmp_path) == sorted(["benchmark.tar", *SET5])


@pytest.mark.parametrize("fault", [{"plain": True}, {}, {"deaf": True}, {"no_etag": True}, {"no_etag": True, "deaf": True}])
def test_no_part_is_joined_to_another_file(fault, set5, tmp_path):
    with FileServer({"a": set5}) as server:
        server.faults["a"] = itertools.chain([{"cut": 6000, **fault}], itertools.repeat(fault))
        with pytest.raises(ValueError, match="6,000"):
            fetch(server.url + "a", tmp_path / "a", retries=0)
        assert (tmp_path / "a.part").stat().st_size == 6000
        if not fault.get("plain"):  # else the server does not know Range
            server.files["a"] = set5[::-1][:-5]
        fetch(server.url + "a", tmp_path / "a", retries=1)
        assert (tmp_path / "a").read_bytes() == server.files["a"]
        assert server.requests[1][1] == "bytes=6000-"
        assert server.requests[1][2] == (206 if fault.get("deaf") else 200), "If-Range saves a second request"
    assert files_in(tmp_path) == ["a"]


def test_a_part_of_another_address_or_that_is_whole(set5, tmp_path):
    with FileServer({"a": set5, "b": set5[:-7]}) as server:
        for name in "aba":
            server.faults[name] = iter([{"cut": 6000}])
            with pytest.raises(ValueError, match="6,000"):
                fetch(server.url + name, tmp_path / "x", retries=0)
        assert [asked for _, asked, _ in server.requests] == [None] * 3
        with open(tmp_path / "x.part", "ab") as part:  # all arrived, and the process ended before it was renamed
            part.write(set5[6000:])
        fetch(server.url + "a", tmp_path / "x", retries=0)
        assert server.requests[-1][2] == 416
        assert (tmp_path / "x").read_bytes() == set5


def test_wrong_lengths(benchmark, server, set5, tmp_path):
    server.faults["benchmark.tar"] = itertools.repeat({"extra": 100})
    status, out, _ = benchmark()
    assert status == 1
    assert f"announced {len(set5) + 100:,} bytes and the connection ended after {len(set5):,}" in out
    server.faults["benchmark.tar"] = itertools.repeat({"extra": -20000})
    status, _, err = benchmark()
    assert status == 1
    assert "no whole zip or tar archive" in err
    assert str(tmp_path / "data/benchmark.tar") in err
    assert files_in(tmp_path / "data") == [], "nothing can be added to the wrong file"


def test_wrong_files(benchmark, server, set5, tmp_path):
    server.files["benchmark.tar"] = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    status, _, err = benchmark()
    assert status == 1
    assert f"{server.url}benchmark.tar: the server sent a web page" in err
    assert f"put the file at {tmp_path / 'data/benchmark.tar'}" in err
    assert files_in(tmp_path / "data") == []
    server.files["benchmark.tar"] = set5
    status, _, err = benchmark("--sha256", "benchmark.tar=" + "0" * 64)
    assert status == 1
    assert "sha256" in err
    assert files_in(tmp_path / "data") == []
    (tmp_path / "tar").write_bytes(set5)
    assert benchmark("--sha256", f"benchmark.tar={file_sha256(tmp_path / 'tar')}")[0] == 0


def test_statuses(benchmark, server, tmp_path):
    server.faults["benchmark.tar"] = itertools.repeat({"status": 403})
    status, _, err = benchmark()
    assert status == 1
    assert "403" in err
    assert len(server.requests) == 1, "no attempt can help"
    server.faults["benchmark.tar"] = itertools.repeat({"status": 500})
    status, _, err = benchmark()
    assert status == 1
    assert "500" in err
    assert len(server.requests) == 3
    server.faults["benchmark.tar"] = iter([{"status": 503}])
    assert benchmark()[0] == 0
    status, _, err = benchmark("--sets", "Set14", "--url", server.url + "none/")
    assert status == 1
    assert "none/benchmark.tar: the server answers 404" in err
    assert benchmark("--sets", "Set14", "--url", "ftp://127.0.0.1")[0] == 1
    status, _, err = benchmark("--sets", "Set14", "--url", "http://127.0.0.1:9")  # nobody listens
    assert status == 1
    assert "no connection" in err


def test_a_silent_server(benchmark, server):
    server.faults["benchmark.tar"] = iter([{"stall": 2000}])
    status, out, _ = benchmark("--timeout", 0.2)
    assert status == 0
    assert "did not answer in time" in out


def test_what_cannot_be_written(benchmark, tmp_path, monkeypatch, server, set5):
    free = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: free(1000))
        status, _, err = benchmark()
        assert status == 1
        assert "1,000 bytes are free" in err
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        status, _, err = benchmark()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert f"{tmp_path / 'data/benchmark.tar'}: cannot be written: File too large" in err
    assert benchmark()[0] == 0
    assert server.requests[-1][1] == "bytes=4000-", "what was written before is kept"
    (tmp_path / "file").write_text("")
    status, _, err = benchmark("--dir_data", tmp_path / "file")
    assert status == 1
    assert f"{tmp_path / 'file'}: cannot be written: File exists" in err


def test_two_downloads_of_one_file(server, set5, tmp_path):
    server.faults["benchmark.tar"] = iter([{"stall": 3000}])
    lines = []
    threads = [
        threading.Thread(target=fetch, args=(server.url + "benchmark.tar", tmp_path / "a"), kwargs={"log": lines.append})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not any("waiting" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.01)
    server.go_on.set()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (tmp_path / "a").read_bytes() == set5
    assert files_in(tmp_path) == ["a"]


# ---------------------------------------------------------------- archives


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "archive",
    [
        zip_of({"benchmark/good.png": b"1", "benchmark/../../evil.png": b"2"}),
        zip_of({"benchmark/good.png": b"1", "/evil.png": b"2"}),
        zip_of({"benchmark/good.png": b"1", "C:\\evil.png": b"2"}),
        zip_of({"benchmark/good.png": b"1", "..\\evil.png": b"2"}),
        zip_of({link("evil.png"): b"/etc/passwd"}),
        tar_of({"benchmark/good.png": b"1", "../evil.png": b"2"}),
        tar_of({"benchmark/good.png": b"1", "/evil.png": b"2"}),
        tar_of({"benchmark/evil.png": (tarfile.SYMTYPE, ".."), "benchmark/evil.png/x.png": b"2"}),
        tar_of({"benchmark/evil.png": (tarfile.LNKTYPE, "/etc/passwd")}),
        tar_of({"benchmark/evil.png": (tarfile.FIFOTYPE, "")}),
        tar_of({"benchmark/evil.png": (tarfile.CHRTYPE, "")}),
    ],
)
def test_archives_that_lead_out_are_refused(archive, benchmark, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/benchmark.tar").write_bytes(archive)
    status, _, err = benchmark()
    assert status == 1
    assert "nothing was unpacked" in err
    assert "evil.png" in err
    assert files_in(tmp_path) == ["data/benchmark.tar"]
    with pytest.raises(ValueError, match="nothing was unpacked"):
        data.archive.unpack(tmp_path / "data/benchmark.tar", tmp_path / "data/out")
    assert files_in(tmp_path) == ["data/benchmark.tar"]


def test_an_archive_put_by_hand_is_used_and_kept(benchmark, server, set5, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/benchmark.tar").write_bytes(set5)
    assert benchmark()[0] == 0
    assert server.requests == []
    assert files_in(tmp_path / "data") == sorted(["benchmark.tar", *SET5])


def test_files_that_are_there_are_not_overwritten(benchmark, tmp_path):
    hr = tmp_path / "data/benchmark/Set5/HR"
    hr.mkdir(parents=True)
    (hr / "baby.png").write_bytes(b"mine")
    (hr / ".bird.png.999999999.part").write_bytes(b"left by a killed run")
    status, _, err = benchmark()
    assert status == 1
    assert "1 files are there with another content" in err
    assert str(hr / "baby.png") in err
    assert (hr / "baby.png").read_bytes() == b"mine"
    assert len(list(hr.iterdir())) == 5, "the others are unpacked, and nothing is left over"


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_unpacking_goes_on_and_sees_damage(make, tmp_path, monkeypatch):
    files = {f"a/{i}.png": bytes([i]) * 3000 for i in range(4)}
    path = tmp_path / "archive"
    content = make(files)
    path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: namedtuple("usage", "free")(11_999))
        with pytest.raises(ValueError, match="12,000 bytes are needed"):
            data.archive.unpack(path, tmp_path / "out")
        (tmp_path / "out/a").mkdir(parents=True)
        (tmp_path / "out/a/2.png").write_bytes(files["a/2.png"])
        assert data.archive.unpack(path, tmp_path / "out") == (3, 1)
    assert {f"a/{p.name}": p.read_bytes() for p in (tmp_path / "out/a").iterdir()} == files
    (tmp_path / "out/a/3.png").write_bytes(b"another file of that length".ljust(3000))
    with pytest.raises(ValueError, match=r"another content(.|\n)*a/3\.png"):
        data.archive.unpack(path, tmp_path / "out")
    path.write_bytes(content[:7000])
    with pytest.raises(ValueError, match="no whole zip or tar"):
        data.archive.unpack(path, tmp_path / "other")
    if make is zip_of:
        path.write_bytes(content.replace(b"\1" * 3000, b"\1" * 2999 + b"\2"))
        with pytest.raises(ValueError, match=r"damaged at a/1\.png"):
            data.archive.unpack(path, tmp_path / "other")
        assert files_in(tmp_path / "other") == ["a/0.png"]
