"""Download large files with curl so that a broken download is resumed.

A partial download is kept in NAME.part, and the server's ETag or date of the file in NAME.part.id.
A resumed download sends this ETag or date as If-Range (RFC 9110, section 13.1.5). The server then
sends the rest if its file is still the same, else the whole new file.
"""

import email
import hashlib
import math
import subprocess
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from runtime.files import UserError, report_write_errors, require_space

BLOCK = 2**18  # bytes read at a time
BAD_ADDRESS, UNREACHABLE = (1, 3), (5, 6, 7, 60)  # exit statuses of curl
RANGE_ERROR, RETRYABLE = 416, (408, 416, 425, 429)  # HTTP statuses; those from 500 on, too


class NotFoundError(UserError):
    """The server has no such file."""


class NoConnectionError(UserError):
    """The server cannot be reached at all."""


def _receive(url, part, id_file, timeout):
    """Write the file, or append its rest, to the .part file."""
    start = part.stat().st_size if part.exists() and id_file.exists() else 0
    command = ["curl", "-q", "-sSN", "--fail", "--location", "--proto", "=http,https", url]
    command += ["--connect-timeout", str(timeout), "--speed-time", str(math.ceil(timeout))]
    if start:
        command += ["-H", f"Range: bytes={start}-", "-H", f"If-Range: {id_file.read_text()}"]
    with tempfile.TemporaryDirectory() as temporary:
        command += ["--dump-header", str(Path(temporary, "headers"))]
        # the body passes through this process: there is one writer, and curl ends with it
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
            first_block = curl.stdout.read1(BLOCK)  # by then, the headers are complete
            status, headers = _read_headers(Path(temporary, "headers"))
            if status in (200, 206):
                start = start if status == 206 else 0
                _write(curl.stdout, first_block, part, id_file, start, headers)
            message = curl.stderr.read().decode(errors="replace").strip()
    if status == RANGE_ERROR:
        if headers.get("Content-Range") == f"bytes */{start}":
            return  # all had arrived before the process ended
        part.unlink(missing_ok=True)  # it is not the start of the server's file
    if curl.returncode:
        _raise(curl.returncode, status, message)


def _read_headers(path):
    """Return the status (0: none) and the headers of the last response."""
    text = path.read_text("latin-1").strip() if path.exists() else ""
    first, _, lines = (text or "HTTP 0").split("\n\n")[-1].partition("\n")
    return int(first.split()[1]), email.message_from_string(lines)


def _write(stream, block, part, id_file, start, headers):
    etag, length = headers.get("ETag", "W/"), int(headers.get("Content-Length", 0))
    file_id = headers.get("Last-Modified") if etag.startswith("W/") else etag
    if start and file_id not in (None, id_file.read_text()):
        id_file.unlink()
        raise ConnectionError("the file changed on the server")
    require_space(part.parent, length)
    total = start + length if length else None
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None)
    with report_write_errors(part), open(part, "ab" if start else "wb") as file, bar:
        if file_id:
            id_file.write_text(file_id)
        while block:
            file.write(block)
            bar.update(len(block))
            block = stream.read1(BLOCK)


def _raise(curl_status, status, message):
    if status in (404, 410):
        raise NotFoundError(f"the server answers {status}")
    if curl_status in BAD_ADDRESS or (400 <= status < 500 and status not in RETRYABLE):
        raise UserError(message)
    if curl_status in UNREACHABLE:
        raise NoConnectionError(f"no connection to the server ({message})")
    raise ConnectionError(message)


def _verify(part, sha256, check):
    """Raise UserError for a complete download that is not the file: web page, checksum, `check`."""
    with open(part, "rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise UserError("the server sent a web page: read it in a browser")
        file.seek(0)
        digest = hashlib.sha256()
        while sha256 and (block := file.read(BLOCK)):
            digest.update(block)
    if sha256 and not digest.hexdigest().startswith(sha256.lower()):
        raise UserError(f"the sha256 of the file is {digest.hexdigest()}, not {sha256}")
    check(part)


def download(url, path, sha256=None, check=lambda path: None, retries=4, timeout=30.0, log=print):
    """Download a file, which appears under its name when complete; an existing file is kept.

    Args:
        url: http or https.
        path: the file to make.
        sha256: hexadecimal digits of the checksum, or the first of them.
        check: called with the path of the complete download; raises UserError for a wrong file.
        retries: attempts after the first that bring no further byte, with pauses of 0.5, 1, 2 s ...
        timeout: seconds to wait for the server.
        log: called with lines on the progress.

    Raises:
        UserError, NotFoundError or NoConnectionError: the message says how to continue.
    """
    path = Path(path)
    part, id_file = (path.with_name(path.name + end) for end in (".part", ".part.id"))
    with report_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        log(f"downloading {url}" + (f", resuming {part}" if part.exists() else ""))
        _receive_with_retries(url, part, id_file, retries, timeout, log)
        try:
            _verify(part, sha256, check)
        except UserError:
            part.unlink()  # nothing can be added to make it right
            id_file.unlink(missing_ok=True)
            raise
    except UserError as error:
        text = f"{url}: {error}\nto fetch it by other means, put the file at {path}"
        raise type(error)(text) from error
    with report_write_errors(path):
        part.replace(path)
        id_file.unlink(missing_ok=True)


def _receive_with_retries(url, part, id_file, retries, timeout, log):
    failures, most = 0, 0
    while True:
        try:
            return _receive(url, part, id_file, timeout)
        except FileNotFoundError as error:
            raise UserError("downloads need the program curl, which is not installed") from error
        except ConnectionError as error:
            arrived = part.stat().st_size if part.exists() else 0
            failures, most = (1 if arrived > most else failures + 1), max(most, arrived)
            if failures > retries:
                kept = f"{part} keeps {arrived:,} bytes, and the same command resumes"
                raise UserError(f"{error} ({kept})") from error
            pause = min(0.5 * 2 ** (failures - 1), 30)
            log(f"{error}: {arrived:,} bytes have arrived, next attempt in {pause:g} s")
            time.sleep(pause)
