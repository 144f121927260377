"""Unpack chosen files of a zip or tar archive.

The caller maps names of the archive to paths of its own; no path of the archive is used. Each file
appears complete or not at all. Files that are there are never replaced.
"""

import contextlib
import filecmp
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from prepare.download import require_space
from runtime.files import UserError, bullet_list


@contextlib.contextmanager
def _open(path):
    """Open an archive; yields (its files: (name, size, member), open_member(member))."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [(m.filename, m.file_size, m) for m in archive.infolist()]
                yield [member for member in members if member[0][-1:] != "/"], archive.open
        else:
            with tarfile.open(path) as archive:
                members = [(m.name, m.size, m) for m in archive.getmembers() if m.isreg()]
                yield members, archive.extractfile
    except (OSError, UserError):
        raise
    except Exception as error:  # each format has errors of its own
        raise UserError(f"{path}: is not a complete zip or tar archive") from error


def check_archive(path):
    """Raise UserError unless the file is a complete zip or tar archive."""
    with _open(path):
        pass


def unpack(path, folder, target_for):
    """Unpack files of a zip or tar archive; keep files that exist already.

    target_for(name in the archive) is the path under `folder`, or None to leave that file out.
    Returns numbers of files: (written, there before with the same content). Files that are there
    with another content are an error, after the others are unpacked.
    """
    folder = Path(folder)
    try:
        with _open(path) as (members, open_member):
            wanted = [(*member, target_for(member[0])) for member in members]
            jobs = [(*job[:3], folder / job[3]) for job in wanted if job[3] is not None]
            unsafe = [
                name
                for name, _, _, target in jobs
                if ".." in target.parts or not target.is_relative_to(folder) or ":" in target.name
            ]
            if unsafe:
                raise UserError(f"{path}: is not safe, nothing was unpacked:" + bullet_list(unsafe))
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, sum(size for _, size, _, target in jobs if not target.exists()))
            return _extract_all(path, folder, jobs, open_member)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error


def _extract_all(path, folder, jobs, open_member):
    written, differ = 0, []
    bar = tqdm(jobs, desc=f"unpacking {Path(path).name}", unit="file", disable=None)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as temporary:
        extracted = Path(temporary, "file")
        for name, _, member, target in bar:
            try:
                with open_member(member) as source, open(extracted, "wb") as file:
                    shutil.copyfileobj(source, file)
            except OSError:
                raise
            except Exception as error:
                raise UserError(
                    f"{path}: is damaged at {name} ({error}): remove it and run the command again"
                ) from error
            if not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(extracted, target)
                written += 1
                continue
            if not (target.is_file() and filecmp.cmp(extracted, target, shallow=False)):
                differ.append(str(target))
            os.unlink(extracted)
    if differ:
        raise UserError(
            f"{len(differ)} files are there with another content than in {path}; they were kept:"
            + bullet_list(differ)
        )
    return written, len(jobs) - written
