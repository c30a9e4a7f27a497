"""A backup, compressed: made whole or not at all, and proven by extracting it again.

gzip, because every host has it: ``gunzip`` gives the backup back without this project.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.files import sync_folder

_LEVEL = 6


def archive_of(file: Path) -> Path:
    """Return where the archive of a file lies: beside it."""
    return file.with_name(f"{file.name}.gz")


def compress(file: Path, sha256: str) -> Path:
    """Write the archive of a file beside it, readable by its owner only; the file stays.

    Args:
        file: The backup.
        sha256: Of the file; the archive's content, read back from its device, must have it.

    Raises:
        StepFailed: When the disk refuses, or the archive's content differs; no archive is left then.
        CannotCheck: When the file cannot be read.
    """
    to = archive_of(file)
    partial = to.with_name(f".{to.name}.partial")
    try:
        with files.disk_errors(to):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                with gzip.GzipFile("", "wb", _LEVEL, out, mtime=0) as packed:
                    for block in _blocks(file):
                        packed.write(block)
                out.flush()
                os.fsync(out.fileno())
        found = digest(partial)
        if found != sha256:
            raise StepFailed(
                "the archive does not hold the backup",
                where=str(file),
                expected=f"SHA-256 {sha256}",
                found=found,
                do="The backup stays as it is. Check it and the disk.",
            )
        with files.disk_errors(to):
            partial.rename(to)
            sync_folder(to.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return to


def digest(archive: Path) -> str:
    """Return the SHA-256 of an archive's content, read from its device.

    Raises:
        CannotCheck: When it cannot be read or is damaged.
    """
    total = hashlib.sha256()
    for block in _unpacked(archive):
        total.update(block)
    return total.hexdigest()


def extract(archive: Path, to: Path) -> str:
    """Extract an archive into a new file, durably, readable by its owner only, as ``files.copy`` does.

    Returns:
        The SHA-256 of the content.
    """
    total = hashlib.sha256()
    try:
        with files.disk_errors(to):
            to.unlink(missing_ok=True)
            with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                for block in _unpacked(archive):
                    total.update(block)
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return total.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as reading:
            while block := reading.read(files.BLOCK):
                yield block
    except OSError as error:
        raise CannotCheck(
            "the file cannot be read", where=str(file), found=rights.reason(error), do="Check the disk."
        ) from None


def _unpacked(archive: Path) -> Iterator[bytes]:
    try:
        with archive.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with gzip.GzipFile(fileobj=file) as packed:
                while block := packed.read(files.BLOCK):
                    yield block
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CannotCheck("the archive is damaged", where=str(archive), found=str(error), do="Use the other copy.") from None
    except OSError as error:
        raise CannotCheck(
            "the archive cannot be read", where=str(archive), found=rights.reason(error), do="Use the other copy."
        ) from None
