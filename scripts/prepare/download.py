"""Download large files with curl. A partial download is kept in NAME.part and resumed.

A resumed file that fails its checks may be joined from two versions of the server's file: it is
downloaded once more from the start.
"""

import email
import hashlib
import math
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from runtime.files import UserError, report_write_errors

BLOCK = 2**18  # bytes read at a time
BAD_ADDRESS, UNREACHABLE, NO_RANGES = (1, 3), (5, 6, 7, 60), 33  # exit statuses of curl
RANGE_ERROR, RETRYABLE = 416, (408, 425, 429)  # HTTP statuses; those from 500 on, too


class NotFoundError(UserError):
    """The server has no such file."""


class NoConnectionError(UserError):
    """The server cannot be reached at all."""


def require_space(folder, size):
    """Raise UserError if fewer than `size` bytes are free on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{folder}: cannot hold {size:,} bytes more: free some space, {free:,} bytes are free"
        )


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _receive(url, part, timeout):
    """Write the file, or append its rest, to the .part file."""
    start = _size(part)
    command = ["curl", "-q", "-sSN", "--fail", "--location", "--proto", "=http,https", url]
    command += ["--connect-timeout", str(timeout), "--speed-time", str(math.ceil(timeout))]
    with tempfile.TemporaryDirectory() as temporary:
        headers = Path(temporary, "headers")
        command += ["-C", str(start), "--dump-header", str(headers)]
        # the body passes through this process: there is one writer, and curl ends with it
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
            block = curl.stdout.read1(BLOCK)  # by then, the headers are complete
            status, length = _read_headers(headers)
            if block:
                _write(curl.stdout, block, part, start, length)
            message = curl.stderr.read().decode(errors="replace").strip()
    if curl.returncode == NO_RANGES:
        part.unlink(missing_ok=True)
    # 416: all had arrived before the process ended, or the checks will tell
    if not curl.returncode or (status == RANGE_ERROR and start):
        return
    if status in (404, 410):
        raise NotFoundError(f"the server answers {status}")
    if curl.returncode in BAD_ADDRESS or (400 <= status < 500 and status not in RETRYABLE):
        raise UserError(message)
    if curl.returncode in UNREACHABLE:
        raise NoConnectionError(f"no connection to the server ({message})")
    raise ConnectionError(message)


def _read_headers(path):
    """Return (status or 0, length or 0) of the last response."""
    text = path.read_text("latin-1").strip() if path.exists() else ""
    first, _, lines = (text or "HTTP 0").split("\n\n")[-1].partition("\n")
    headers = email.message_from_string(lines)
    return int(first.split()[1]), int(headers.get("Content-Length", 0))


def _write(stream, block, part, start, length):
    require_space(part.parent, length)
    total = start + length if length else None
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None)
    with report_write_errors(part), open(part, "ab") as file, bar:
        while block:
            file.write(block)
            bar.update(len(block))
            block = stream.read1(BLOCK)


def _receive_with_retries(url, part, retries, timeout):
    # not curl's --retry, which throws away what an attempt has brought
    failures = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part, timeout)
        except FileNotFoundError as error:
            raise UserError("downloads need the program curl, which is not installed") from error
        except ConnectionError as error:
            arrived = _size(part)
            failures = 1 if arrived > before else failures + 1
            if failures > retries:
                kept = f"{part} keeps {arrived:,} bytes, and the same command resumes"
                raise UserError(f"{error} ({kept})") from error
            pause = min(0.5 * 2 ** (failures - 1), 30)
            print(f"{error}: {arrived:,} bytes have arrived, next attempt in {pause:g} s")
            time.sleep(pause)


def _verify(part, sha256, check):
    """Raise UserError for a complete download that is not the file: web page, checksum, `check`."""
    with open(part, "rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise UserError("the server sent a web page: read it in a browser")
        file.seek(0)
        digest = hashlib.sha256()
        while sha256 and (block := file.read(2**20)):
            digest.update(block)
    if sha256 and not digest.hexdigest().startswith(sha256.lower()):
        raise UserError(f"the sha256 of the file is {digest.hexdigest()}, not {sha256}")
    check(part)


def download(url, path, sha256=None, check=lambda path: None, retries=4, timeout=30.0):
    """Download a file, which appears under its name when complete; an existing file is kept.

    `sha256` is the checksum or its start. check(path of the complete download) raises UserError for
    a wrong file. `retries` are attempts after the first that bring no further byte, with pauses of
    0.5, 1, 2 s ... The server may be silent for `timeout` seconds.

    Raises:
        UserError, NotFoundError or NoConnectionError: the message says how to continue.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with report_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        is_resumed = part.exists()
        print(f"downloading {url}" + (f", resuming {part}" if is_resumed else ""))
        try:
            _receive_with_retries(url, part, retries, timeout)
            try:
                _verify(part, sha256, check)
            except UserError as error:
                part.unlink()  # nothing can be added to make it right
                if not is_resumed:
                    raise
                print(f"{part}: {error}: it is fetched again from the start")
                continue
        except UserError as error:
            text = f"{url}: {error}\nto fetch it by other means, put the file at {path}"
            raise type(error)(text) from error
        with report_write_errors(path):
            part.replace(path)
