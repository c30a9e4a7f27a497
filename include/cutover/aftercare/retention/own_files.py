"""Files that retention may touch: regular files in the place that was recorded, with the content that was recorded.

Each function returns why a file is not one of these; an empty text means that it is.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from include.cutover import files
from include.cutover.errors import CannotCheck
from include.cutover.source import backup_archive, backup_manifest

_NOT_PLAIN = "it is a link, or not a regular file"


def lies_there(path: Path) -> bool:
    """Return True when the path exists, even as a broken link."""
    return os.path.lexists(path)


def is_plain(path: Path) -> bool:
    """Return True for a regular file in the recorded place, with no symbolic link on the way to it."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and files.real(path.parent) == path.parent
    except OSError:
        return False


def foreign(path: Path, sha256: str) -> str:
    """Check a file against its recorded hash."""
    if not is_plain(path):
        return _NOT_PLAIN
    try:
        found = files.digest(path)
    except CannotCheck as error:
        return str(error)
    return "" if found == sha256 else "its hash is not the recorded one"


def foreign_archive(path: Path, sha256: str) -> str:
    """Check an archive against the hash of the file that it holds."""
    if not is_plain(path):
        return _NOT_PLAIN
    return "" if archived_digest(path) == sha256 else "it is not the archive of this backup"


def foreign_json(path: Path) -> str:
    """Check a file of which no hash was recorded."""
    return "" if is_plain(path) else _NOT_PLAIN


def foreign_manifest(path: Path, run_id: str) -> str:
    """Check that a backup's manifest is that of the run."""
    if not is_plain(path):
        return _NOT_PLAIN
    try:
        return "" if backup_manifest.load(path).run_id == run_id else "it is the manifest of another run"
    except CannotCheck as error:
        return error.message


def archived_digest(archive: Path) -> str | None:
    """Return the SHA-256 of the file in an archive; None where it cannot be read."""
    try:
        return backup_archive.digest(archive)
    except CannotCheck:
        return None
