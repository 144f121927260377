"""Download large files so that a broken download is resumed.

torch.hub, urllib and pooch start again from zero, and curl is not on each machine. A partial
download is kept in NAME.part, what identifies the server's file in NAME.part.id. The rest is
requested by Range under the condition of If-Range (RFC 9110, section 13.1.5): a server that has
another file by now sends all of it.
"""

import hashlib
import http.client
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from runtime.errors import UserError
from runtime.files import report_write_errors

BLOCK = 2**18  # bytes read at a time


class NotFoundError(UserError):
    """The server has no such file."""


class NoConnectionError(UserError):
    """The server cannot be reached at all."""


def require_space(folder, size):
    """Raise UserError if fewer than `size` bytes are free on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {size:,} bytes are needed and {free:,} bytes are free")


def _id_file(part):
    return part.with_name(f"{part.name}.id")


def _verify(part, sha256, check):
    """Check a complete download, and remove a wrong one: nothing can be added to make it right."""
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        file.seek(0)
        while sha256 and (block := file.read(BLOCK)):
            digest.update(block)
    try:
        if start.startswith((b"<!doctype html", b"<html")):
            raise UserError("the server sent a web page: a browser shows what it says")
        if sha256 and not digest.hexdigest().startswith(sha256.lower()):
            raise UserError(f"the sha256 of the file is {digest.hexdigest()}, not {sha256}")
        check(part)
    except UserError as error:
        part.unlink()
        _id_file(part).unlink(missing_ok=True)
        raise UserError(str(error).removeprefix(f"{part}: ")) from error


def _receive(url, part, timeout):
    """Append the rest to the .part file; OSError and HTTPException: another attempt may help."""
    id_file = _id_file(part)
    start = part.stat().st_size if part.exists() and id_file.exists() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", id_file.read_text())
    with urllib.request.urlopen(request, timeout=timeout) as response:
        etag = response.headers.get("ETag", "W/")
        file_id = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        start = start if response.status == 206 else 0
        if start and file_id not in (None, id_file.read_text()):
            id_file.unlink()
            raise ConnectionError("the file changed on the server")
        length = response.headers.get("Content-Length")
        require_space(part.parent, int(length or 0))
        with report_write_errors(part), open(part, "ab" if start else "wb") as file:
            if file_id:
                id_file.write_text(file_id)
            total = start + int(length) if length else None
            _append(response, file, start, total, part.stem)


def _append(response, file, start, total, title):
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=title, disable=None)
    with bar:
        while True:
            try:
                block = response.read1(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise http.client.HTTPException(str(error) or type(error).__name__) from error
            if not block:
                break
            file.write(block)
            bar.update(len(block))
    arrived = file.tell()
    if total is not None and arrived < total:
        raise http.client.HTTPException(f"{total:,} bytes were announced and {arrived:,} arrived")


def _raise_if_final(error, part):
    """Raise UserError for an error that another attempt cannot mend."""
    reason = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        text = f"the server answers {error.code} ({error.reason})"
        if error.code in (404, 410):
            raise NotFoundError(text) from error
        if error.code == 416:  # the .part is not the start of the server's file
            part.unlink(missing_ok=True)
        elif error.code < 500 and error.code not in (408, 425, 429):
            raise UserError(text) from error
    unreachable = (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
    if isinstance(reason, unreachable):
        raise NoConnectionError(f"no connection to the server ({reason})") from error


def download(url, path, sha256=None, check=lambda path: None, retries=4, timeout=30.0, log=print):
    """Download a file, which appears under its name when complete; an existing file is kept.

    Args:
        url: http or https.
        path: the file to make.
        sha256: hexadecimal digits of the checksum, or the first of them.
        check: called with the path of the complete download; raises UserError if it is not what it
            should be.
        retries: attempts after the first that bring no further byte, with pauses of 0.5, 1, 2, ...
            s.
        timeout: seconds to wait for the server.
        log: called with lines on the progress.

    Raises:
        UserError: the message says what to do. NotFoundError and NoConnectionError are two kinds of
            it.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    with report_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        if not url.startswith(("http://", "https://")):  # urllib reads file: and ftp: as well
            raise UserError("is not an address of http or https")
        log(f"downloading {url}" + (f", resuming {part}" if part.exists() else ""))
        _receive_with_retries(url, part, retries, timeout, log)
        _verify(part, sha256, check)
    except UserError as error:
        text = f"{url}: {error}\nto fetch it by other means, put the file at {path}"
        raise type(error)(text) from error
    with report_write_errors(path):
        part.replace(path)
        _id_file(part).unlink(missing_ok=True)


def _receive_with_retries(url, part, retries, timeout, log):
    failures, most = 0, 0
    while True:
        try:
            return _receive(url, part, timeout)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "headers", None) and part.exists():
                complete = f"bytes */{part.stat().st_size}"
                if error.headers.get("Content-Range") == complete:
                    return None  # all had arrived before the process ended
            _raise_if_final(error, part)
            arrived = part.stat().st_size if part.exists() else 0
            failures = 1 if arrived > most else failures + 1
            most = max(most, arrived)
            if failures > retries:
                kept = f"{part} keeps {arrived:,} bytes, and the same command resumes"
                raise UserError(f"{error} ({kept})") from error
            pause = min(0.5 * 2 ** (failures - 1), 30)
            log(f"{error}: {arrived:,} bytes have arrived, next attempt in {pause:g} s")
            time.sleep(pause)
