"""Links the other names of the database to the restored file: a hard link would lead to the old, fenced file.

It runs after the restore. The side files under another name go into the evidence first, so that none is replayed into the
restored file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from include.cutover import files
from include.cutover.errors import CannotCheck, Refused
from include.cutover.files import sync_folder
from include.cutover.source import holders, other_names

log = logging.getLogger(__name__)

FOLDER = "other_names"
"""Folder in ``kept``, with a folder for each name whose files were kept."""


def relink(database: Path, others: Sequence[Path], kept: Path) -> tuple[Path, ...]:
    """Link each other name to the restored database, atomically; keep what was found there and is kept nowhere else.

    Safe to run again, also after a kill at any instant. A name whose folder is missing is left out.

    Args:
        database: The restored database.
        others: Its other names, as the plan gives them.
        kept: Folder of the evidence for the files found.

    Returns:
        The names, all of them the restored file now.

    Raises:
        Refused: When a process has the file under another name open. That name was not changed.
        StepFailed: When a place cannot be written, or lies on another device.
    """
    place = files.real(database)
    linked = []
    for path in map(files.real, others):
        if path == place:
            continue
        if not path.parent.is_dir():
            log.warning("%s is not linked to the restored file: its folder is missing", path)
            continue
        _relink(place, path, kept)
        linked.append(path)
    return tuple(linked)


def left_behind(database: Path, others: Sequence[Path]) -> list[str]:
    """Return, before a restore, the names that will show the old file after it; in plain words, for a warning."""
    with suppress(CannotCheck):
        names = other_names.find(database, others)
        return [
            *(f"{mount} is a mount of the single file and shows the old one: mount it again" for mount in names.mounts),
            *(f"{path} is a hard link that the plan does not name, and stays the old file" for path in names.nearby),
            *([f"{names.hidden} hard links at unknown places stay the old file"] if names.hidden > 0 else []),
        ]
    return []


def _relink(place: Path, path: Path, kept: Path) -> None:
    temporary = path.with_name(f".{path.name}.restored")
    with files.disk_errors(temporary):
        temporary.unlink(missing_ok=True)
    beside = [item for item in files.side_files(path) if not _same_file(item, place.with_name(item.name))]
    if _same_file(path, place) and not beside:
        return
    if path.exists() and (found := holders.open_files(path)):
        raise Refused(
            "a process has the database open under another name",
            where=str(path),
            expected="no process",
            found=holders.describe(found),
            do="Stop it, then run the step again: it would continue to write to the old file.",
        )
    folder = kept / FOLDER / files.slug(os.fspath(path).strip("/"))
    for item in beside:
        _keep(item, folder)
    if _same_file(path, place):
        return
    if path.exists() and not _is_kept(path, kept, place.name):
        _keep(path, folder)
    with files.disk_errors(path):
        temporary.hardlink_to(place)
        temporary.rename(path)
        sync_folder(path.parent)
    log.warning("%s is linked to the restored %s", path, place)


def _same_file(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return path.samefile(other)
    return False


def _is_kept(path: Path, kept: Path, name: str) -> bool:
    """Check that the restore kept this content: the same file, or on another device an equal copy."""
    for item in (kept / name, *kept.glob(f"*/{name}")):
        if _same_file(item, path):
            return True
        with suppress(OSError):
            if item.stat().st_size == path.stat().st_size and files.digest(item) == files.digest(path):
                return True
    return False


def _keep(path: Path, folder: Path) -> None:
    """Move a file into a folder of the evidence, durably, under a name that is free there."""
    files.make_private(folder)
    to, number = folder / path.name, 2
    while os.path.lexists(to):
        to, number = folder / f"{path.name}.{number}", number + 1
    files.move(path, to)
    log.warning("%s was found and is kept as %s", path, to)
