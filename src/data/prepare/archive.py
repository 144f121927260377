"""Unpacking zip and tar archives that come from elsewhere: nothing is written outside of the folder, or over a file.

No entry is trusted: names are checked before the first file is written, contents are copied file by file (tarfile's own
extraction is not used, whose safe form is not in every Python that this program runs on), links and devices are refused.
"""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it opens no such archive
    LZMAError = zlib.error

from data.prepare.download import require_space
from runtime.errors import UserError, bullet_list
from runtime.files import atomic_path, remove_stale_temp_files

BLOCK = 2**18  # bytes compared at a time
# what zipfile and tarfile raise for a damaged, encrypted or unknown kind of archive
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    LZMAError,
)


class _Entry(NamedTuple):
    """A file of an archive: its name there, its size in bytes, what is wrong with it or "", and what opens it."""

    name: str
    size: int
    problem: str
    open: object


class UnpackResult(NamedTuple):
    """Numbers of files: written, and there before with the same content."""

    written: int
    kept: int


def check_archive(path):
    """Raise UserError for a file that is no zip or tar archive, or whose end is missing."""
    with _entries(path):
        pass


def unpack(path, folder, place=lambda name: name):
    """Unpack the files of an archive. Each appears whole or not at all; what is there with the same content is kept.

    Args:
        path: a zip or tar archive.
        folder: nothing is written outside of it.
        place: gives the path under `folder` for a name of the archive (with `/`, checked), or None to leave that file out.

    Returns:
        UnpackResult.

    Raises:
        UserError: no archive, or a damaged one; entries that lead out of the folder or are no plain files (nothing is
            unpacked); files that are there with another content (they are kept, the others unpacked); too little space.
    """
    folder = Path(folder)
    try:
        with _entries(path) as entries:
            places = [(entry, place(entry.name)) for entry in entries]
            jobs = [(entry, folder / target) for entry, target in places if target is not None]
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, sum(entry.size for entry, target in jobs if not target.exists()))
            for parent in {target.parent for _, target in jobs}:
                parent.mkdir(parents=True, exist_ok=True)
                remove_stale_temp_files(parent)
            return _write_all(path, jobs)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error


def _write_all(path, jobs):
    written, differ = 0, []
    for entry, target in tqdm(jobs, desc=f"unpacking {Path(path).name}", unit="file", disable=None):
        try:
            if not os.path.lexists(target):
                with (
                    entry.open() as source,
                    atomic_path(target) as partial,
                    open(partial, "wb") as file,
                ):
                    shutil.copyfileobj(source, file)
                    if file.tell() != entry.size:
                        raise EOFError("its end is missing")
                written += 1
            elif not _same(entry, target):
                differ.append(f"{target}")
        except DAMAGED as error:
            raise UserError(
                f"{path}: is damaged at {entry.name} ({error}): remove it and run the command again"
            ) from error
    if differ:
        raise UserError(
            f"{len(differ)} files are there with another content than in {path}; they were kept:"
            + bullet_list(differ)
        )
    return UnpackResult(written, len(jobs) - written)


def _same(entry, target):
    if not target.is_file() or target.stat().st_size != entry.size:
        return False
    with entry.open() as one, open(target, "rb") as other:
        while block := one.read(BLOCK):
            if block != other.read(BLOCK):
                return False
    return True


@contextmanager
def _entries(path):
    """Open an archive and give the list of its files as _Entry, all of them safe.

    Raises:
        UserError: see `unpack`.
    """
    try:
        archive = zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path)  # noqa: SIM115 (closed below)
        with archive:
            is_zip = isinstance(archive, zipfile.ZipFile)
            entries = list(_zip_entries(archive) if is_zip else _tar_entries(archive))
            unsafe = [f"{entry.name}: {entry.problem}" for entry in entries if entry.problem]
            if unsafe:
                raise UserError(f"{path}: is not safe, nothing was unpacked:" + bullet_list(unsafe))
            yield entries
    except DAMAGED as error:
        raise UserError(f"{path}: is no whole zip or tar archive") from error


def _zip_entries(archive):
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)  # 0: made on a system without such kinds
        problem = _problem(info.filename, plain)
        if problem or not info.is_dir():
            yield _Entry(
                info.filename, info.file_size, problem, lambda info=info: archive.open(info)
            )


def _tar_entries(archive):
    for info in archive.getmembers():
        problem = _problem(info.name, info.isreg() or info.isdir())
        if problem or not info.isdir():
            yield _Entry(info.name, info.size, problem, lambda info=info: archive.extractfile(info))


def _problem(name, plain):
    """Say what is wrong with an entry, or ""."""
    words = name.replace("\\", "/").split("/")  # Windows takes both, and C:name
    if not words[0] or ".." in words or ":" in words[0] or "\0" in name:
        return "leads out of the folder"
    return "" if plain else "is a link or a device"
