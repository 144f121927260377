"""Downloads that fail in every way, and archives that nobody should unpack."""

import contextlib
import hashlib
import itertools
import lzma
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from file_server import FileServer
from helpers import SET5, files_in, refused, tar_of, zip_of
from prepare.archive import unpack
from prepare.download import download
from runtime.files import UserError

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/prepare_data.py"


def test_a_broken_download_goes_on_where_it_was(benchmark, server, tmp_path):
    server.faults["benchmark.tar"] = iter([{"cut": 5000}, {"cut": 3000}, {"cut": 2000}])
    status, out, err = benchmark()  # with one attempt after each that brings nothing
    assert status == 0, err
    ranges = [None, "bytes=5000-", "bytes=8000-", "bytes=10000-"]
    assert [asked for _, asked, _ in server.requests] == ranges
    assert files_in(tmp_path / "data") == SET5
    assert "next attempt in" in out


def test_a_killed_download_goes_on_where_it_was(benchmark, server, set5, tmp_path):
    server.faults["benchmark.tar"] = iter([{"stall": 7000}])
    part = tmp_path / "data/benchmark.tar.part"
    command = [sys.executable, SCRIPT, "benchmark", "--url", server.url]
    command += ["--dir_data", tmp_path / "data"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size >= 1024) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.go_on.set()
    kept = part.stat().st_size
    status, _, err = benchmark("--keep")
    assert status == 0, err
    assert server.requests[1] == ("benchmark.tar", f"bytes={kept}-", 206)
    assert (tmp_path / "data/benchmark.tar").read_bytes() == set5
    assert files_in(tmp_path / "data") == sorted(["benchmark.tar", *SET5])


@pytest.mark.parametrize("fault", [{"plain": True}, {}])
def test_no_part_is_joined_to_another_file(fault, set5, tmp_path):
    def check(part):
        if part.read_bytes() not in server.files.values():
            raise UserError("is damaged")

    with FileServer({"a": set5}) as server:
        server.faults["a"] = itertools.chain([{"cut": 6000, **fault}], itertools.repeat(fault))
        with pytest.raises(UserError, match="6,000"):
            download(server.url + "a", tmp_path / "a", check=check, retries=0)
        assert (tmp_path / "a.part").stat().st_size == 6000
        server.files["a"] = set5[::-1]
        download(server.url + "a", tmp_path / "a", check=check, retries=1)
        assert (tmp_path / "a").read_bytes() == server.files["a"]
        assert [asked for _, asked, _ in server.requests] == [None, "bytes=6000-", None]
    assert files_in(tmp_path) == ["a"]


def test_a_part_that_is_whole(set5, tmp_path):
    (tmp_path / "x.part").write_bytes(set5)  # the process ended before it was renamed
    with FileServer({"a": set5}) as server:
        download(server.url + "a", tmp_path / "x", retries=0)
        assert [status for *_, status in server.requests] == [416]
    assert (tmp_path / "x").read_bytes() == set5


def test_wrong_lengths(benchmark, server, set5, tmp_path):
    server.faults["benchmark.tar"] = iter([{"extra": 100}])
    status, out, _ = benchmark()
    assert status == 0, "asked for the rest, the server says that there is none"
    assert f"{len(set5):,} bytes have arrived" in out
    shutil.rmtree(tmp_path / "data")
    server.faults["benchmark.tar"] = itertools.repeat({"extra": -20000})
    refused(benchmark(), "not a complete zip or tar archive", str(tmp_path / "data/benchmark.tar"))
    assert files_in(tmp_path / "data") == [], "nothing can be added to the wrong file"


def test_wrong_files(benchmark, server, set5, tmp_path):
    server.files["benchmark.tar"] = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    by_hand = f"put the file at {tmp_path / 'data/benchmark.tar'}"
    refused(benchmark(), f"{server.url}benchmark.tar: the server sent a web page", by_hand)
    assert files_in(tmp_path / "data") == []
    server.files["benchmark.tar"] = set5
    refused(benchmark("--sha256", "benchmark.tar=" + "0" * 64), "sha256")
    assert files_in(tmp_path / "data") == []
    assert benchmark("--sha256", f"benchmark.tar={hashlib.sha256(set5).hexdigest()}")[0] == 0


def test_statuses(benchmark, server, tmp_path):
    server.faults["benchmark.tar"] = itertools.repeat({"status": 403})
    refused(benchmark(), "403")
    assert len(server.requests) == 1, "no attempt can help"
    server.faults["benchmark.tar"] = itertools.repeat({"status": 500})
    refused(benchmark(), "500")
    assert len(server.requests) == 3
    server.faults["benchmark.tar"] = iter([{"status": 503}])
    assert benchmark()[0] == 0
    missing = benchmark("--sets", "Set14", "--url", server.url + "none/")
    refused(missing, "none/benchmark.tar: the server answers 404")
    status, out, _ = benchmark("--sets", "Set14", "--url", "ftp://127.0.0.1")
    assert status == 1
    assert "next attempt" not in out
    # nobody listens
    refused(benchmark("--sets", "Set14", "--url", "http://127.0.0.1:9"), "no connection")


def test_a_silent_server(benchmark, server):
    server.faults["benchmark.tar"] = iter([{"stall": 2000}])
    status, out, _ = benchmark("--timeout", 0.2)
    assert status == 0
    assert "curl: (28)" in out, "curl waits for whole seconds"


def test_without_curl_a_message_says_so(benchmark, server, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = benchmark()
    assert status == 1
    assert "downloads need the program curl, which is not installed" in err
    assert f"put the file at {tmp_path / 'data/benchmark.tar'}" in err
    assert server.requests == []


def test_what_cannot_be_written(benchmark, tmp_path, monkeypatch, server, set5):
    free = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: free(1000))
        refused(benchmark(), "1,000 bytes are free")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        status, _, err = benchmark()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert f"{tmp_path / 'data/benchmark.tar.part'}: cannot be written: File too large" in err
    assert benchmark()[0] == 0
    assert server.requests[-1][1] == "bytes=4000-", "what was written before is kept"
    (tmp_path / "file").write_text("")
    words = f"{tmp_path / 'file'}: cannot be written: File exists"
    refused(benchmark("--dir_data", tmp_path / "file"), words)


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
def test_nothing_of_an_archive_leads_out(archive, benchmark, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/benchmark.tar").write_bytes(archive)
    assert benchmark()[0] == 1
    assert files_in(tmp_path) == ["data/benchmark.tar"], "only names of the benchmark are unpacked"
    with contextlib.suppress(UserError):  # with every name of the archive wanted
        unpack(tmp_path / "data/benchmark.tar", tmp_path / "data/out", str)
    out = tmp_path / "data/out"
    outside = {tmp_path / name for name in files_in(tmp_path)} - {tmp_path / "data/benchmark.tar"}
    assert all(path.is_relative_to(out) for path in outside)
    assert not any(path.is_symlink() for path in outside)
    assert all(path.stat().st_nlink == 1 and path.is_file() for path in outside)


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
    refused(benchmark(), "1 files are there with another content", str(hr / "baby.png"))
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
        with pytest.raises(UserError, match="cannot hold 12,000 bytes more"):
            unpack(path, tmp_path / "out", str)
        (tmp_path / "out/a").mkdir(parents=True)
        (tmp_path / "out/a/2.png").write_bytes(files["a/2.png"])
        assert unpack(path, tmp_path / "out", str) == (3, 1)
    assert {f"a/{p.name}": p.read_bytes() for p in (tmp_path / "out/a").iterdir()} == files
    (tmp_path / "out/a/3.png").write_bytes(b"another file of that length".ljust(3000))
    with pytest.raises(UserError, match=r"another content(.|\n)*a/3\.png"):
        unpack(path, tmp_path / "out", str)
    path.write_bytes(content[:7000])
    with pytest.raises(UserError, match="not a complete zip or tar"):
        unpack(path, tmp_path / "other", str)
    if make is zip_of:
        path.write_bytes(content.replace(b"\1" * 3000, b"\1" * 2999 + b"\2"))
        with pytest.raises(UserError, match=r"damaged at a/1\.png"):
            unpack(path, tmp_path / "other", str)
        assert files_in(tmp_path / "other") == ["a/0.png"]


def test_a_damaged_xz_archive_is_named(tmp_path):
    path = tmp_path / "damaged.tar.xz"
    content = bytearray(lzma.compress(tar_of({"a/1.png": random.Random(0).randbytes(300_000)})))
    content[150_000] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.tar\.xz: is not a complete zip or tar archive"):
        unpack(path, tmp_path / "out", str)
