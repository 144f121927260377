"""Downloads that go on where they broke off. The standard library's HTTP is all they need.

What has arrived of NAME lies beside it in NAME.part. NAME.part.json says what that is a part of: address, length and the
server's validator, its ETag or Last-Modified. The rest is asked for by Range under the condition of If-Range (RFC 9110,
section 13.1.5), so that a server that cannot give a part, or has another file by now, sends the whole, and all starts over.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from runtime.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BLOCK = 2**18  # bytes read at a time


class NotFound(UserError):
    """The server has no such file."""


class NoConnection(UserError):
    """The server cannot be reached at all."""


class _Broken(Exception):
    """The connection broke, or the server is busy: another attempt may succeed."""


def human_size(size):
    """Write a number of bytes for people to read."""
    if size < 2**20:
        return f"{size:,} bytes"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def require_space(folder, size):
    """Raise UserError where fewer than `size` bytes are free on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{folder}: {human_size(size)} are needed and {human_size(free)} are free on that disk"
        )


def file_sha256(path):
    """Give the sha256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch(url, path, sha256=None, check=None, retries=4, timeout=30.0, log=print):
    """Download a file, which appears under its name only when it is whole. A file that is there is left as it is.

    A download that broke off, in this process or an earlier one, goes on from where it was. Of several processes that
    want the same file, one downloads it and the others wait.

    Args:
        url: http or https.
        path: the file to make; its folder is made, too.
        sha256: hexadecimal digits of the checksum, or the first of them.
        check: called with the path of the arrived file; raises UserError where it is not what it should be.
        retries: attempts after the first that bring no further byte, with pauses of 0.5, 1, 2, ... s.
        timeout: seconds to wait for the server to connect, and for the next bytes.
        log: called with lines on the progress.

    Returns:
        the path.

    Raises:
        NotFound: the server has no such file.
        NoConnection: the server cannot be reached.
        UserError: the connection breaks each time, a wrong file or checksum, disk full, no permission; the message says
            what to do.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    if not url.startswith(("http://", "https://")):  # urllib reads file: and ftp: as well
        raise UserError(f"{url}: is no address of http or https")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with _alone(part, log):
                if not path.exists():
                    try:
                        _receive(url, part, retries, timeout, log)
                        _verify(part, sha256, check)
                    except UserError as error:
                        raise type(error)(
                            f"{url}: {error}\nto fetch it by other means, put the file at {path}"
                        ) from error
                    os.replace(part, path)
                    _note(part).unlink(missing_ok=True)
                    return path
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}"
        ) from error
    if sha256 and not file_sha256(path).startswith(sha256.lower()):
        raise UserError(
            f"{path}: is there, but its sha256 is {file_sha256(path)}, not {sha256}: remove it or move it away"
        )
    return path


def _note(part):
    return part.with_name(f"{part.name}.json")


def _discard(part):
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(part, log):
    """Hold the lock of a .part file, made where it is missing, so that two processes never write into one."""
    if fcntl is None:
        yield
        return
    while True:
        with open(part, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process, which is writing {part}")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                continue  # the other process finished with it while this one waited
            try:
                yield
            finally:
                if part.exists() and not _size(part):
                    _discard(part)
            return


def _size(part):
    return part.stat().st_size if part.exists() else 0


def _receive(url, part, retries, timeout, log):
    """Bring the .part file to its full length, in as many attempts as it takes while they bring something."""
    most, failures = _size(part), 0
    while True:
        try:
            _attempt(url, part, timeout, log)
            return
        except _Broken as error:
            arrived = _size(part)
            failures = 1 if arrived > most else failures + 1
            most = max(most, arrived)
            kept = (
                f" ({human_size(arrived)} are kept: the same command goes on from there)"
                if arrived
                else ""
            )
            if failures > retries:
                raise UserError(f"{error}{kept}") from error
            pause = min(0.5 * 2 ** (failures - 1), 30)
            log(f"{error}; {human_size(arrived)} have arrived, trying again in {pause:g} s")
            time.sleep(pause)


def _attempt(url, part, timeout, log):
    """Ask for what is missing and append it; returns when the file is whole.

    Raises:
        _Broken: worth another attempt.
        UserError: not worth one.
    """
    known = _read_note(part, url)
    start = _size(part) if known else 0
    headers = {"User-Agent": "prepare_data", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            if error.headers.get("Content-Range") == f"bytes */{start}" and known["length"] in (
                None,
                start,
            ):
                return  # all of it had arrived, and the process ended before it was renamed
            _discard(part)
            raise _Broken(
                "what has arrived does not fit the length of the server's file, so all starts over"
            ) from error
        raise _http_problem(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _network_problem(error, bool(start)) from error
    with response:
        begins, total = _extent(response)
        note = {"url": url, "validator": _validator(response), "length": total}
        if begins and (begins != start or _changed(known, note)):
            _discard(part)
            raise _Broken("the file changed on the server, so all starts over")
        if total is not None:
            require_space(part.parent, total - begins)
        size = human_size(total) if total is not None else "unknown size"
        log(
            f"downloading {url} ({size})"
            + (f", going on at {human_size(begins)}" if begins else "")
        )
        if not begins:
            open(part, "wb").close()  # first, so that no old bytes ever lie beside the new note
            _note(part).write_text(json.dumps(note), encoding="utf-8")
        _append(response, part, begins, total)


def _append(response, part, begins, total):
    """Copy the body of a response to the end of the .part file."""
    name = part.name.removesuffix(".part")
    arrived = begins
    bar = tqdm(
        total=total,
        initial=begins,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=name,
        disable=None,
    )
    with open(part, "ab") as file, bar:
        while True:
            try:
                # the first block is long enough to tell a web page; after it nothing waits in memory for a block to fill
                block = response.read1(BLOCK) if arrived else response.read(1024)
            except (OSError, http.client.HTTPException) as error:
                raise _network_problem(error, True) from error
            if not block:
                break
            if not arrived and _is_web_page(block):
                file.truncate(0)
                raise UserError(
                    "the server sent a web page in place of the file; a browser shows what it says"
                )
            file.write(block)
            arrived += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and arrived < total:
        raise _Broken(
            f"the server announced {total:,} bytes and the connection ended after {arrived:,}"
        )


def _verify(part, sha256, check):
    """Check what has arrived; a wrong file is removed, since nothing can be added to make it right."""
    try:
        if sha256 and not (found := file_sha256(part)).startswith(sha256.lower()):
            raise UserError(
                f"another file than expected arrived: its sha256 is {found}, not {sha256}"
            )
        if check:
            check(part)
    except UserError as error:
        _discard(part)
        raise UserError(str(error).removeprefix(f"{part}: ")) from error


def _read_note(part, url):
    """Give what the .part file is a part of; None where that is not known or of another address."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        return note if note["url"] == url and set(note) == {"url", "validator", "length"} else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _validator(response):
    """Give the ETag, if it vouches for every byte, else Last-Modified, else None."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _changed(known, note):
    """Tell whether a part that the server gives belongs to another file; it may leave out Last-Modified (15.3.7)."""
    lengths = known["length"] is not None and note["length"] != known["length"]
    return lengths or (note["validator"] is not None and note["validator"] != known["validator"])


def _extent(response):
    """Give (number of the first byte of the body, length of the whole file or None)."""
    if response.status == 206:
        match = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip()
        )
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _is_web_page(block):
    return (
        block[:1024]
        .lstrip(b"\xef\xbb\xbf \t\r\n")
        .lower()
        .startswith((b"<!doctype html", b"<html"))
    )


def _http_problem(error):
    """Turn a status other than success into what it means: try again, or not."""
    text = f"the server answers {error.code} ({error.reason})"
    if error.code in (404, 410):
        return NotFound(text)
    busy = error.code in (408, 425, 429) or error.code >= 500
    return _Broken(text) if busy else UserError(text)


def _network_problem(error, went_well):
    """Tell a connection that broke (try again) from one that could not be made at all or a bad address (do not)."""
    reason = getattr(error, "reason", error)
    if isinstance(error, (ValueError, http.client.InvalidURL)) and not isinstance(error, OSError):
        return UserError(f"is no address ({error})")
    if isinstance(reason, TimeoutError):
        return _Broken("the server did not answer in time")
    untrusted = isinstance(reason, ssl.SSLCertVerificationError)
    offline = isinstance(reason, (socket.gaierror, ConnectionRefusedError))
    if untrusted or (offline and not went_well):
        return NoConnection(f"no connection to the server ({reason})")
    return _Broken(f"the connection broke ({reason})")
