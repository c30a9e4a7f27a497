"""Processes that this user cannot see, and a file that is about to be replaced.

Root sees every process that holds the database open, and the way back names it. An ordinary user does not see the files of
others. A program of theirs would write on into the file that is moved into the evidence, and the application would not have
its rows. So the file is fenced before: the header byte stops every SQLite, whoever runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from include.cutover import files
from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.source import fence, holders, other_names
from include.cutover.source.backup_manifest import Manifest

log = logging.getLogger(__name__)


@contextmanager
def closed_to_unseen(database: Path, manifest: Manifest, others: Sequence[Path] = ()) -> Iterator[None]:
    """Fence a file that is not fenced while the block runs, where processes cannot be seen; lifted again after an error.

    A file that stays in its place must be lifted by the caller. The backup itself is left alone, as it is not replaced, and
    so is a file that SQLite cannot write to.

    Args:
        database: The file.
        manifest: Of the backup that may replace it.
        others: Hard links of the file that the plan names.

    Raises:
        Refused: When a process is in a transaction, or keeps the file open in WAL mode.
    """
    place = files.real(database)
    if not _must_be_closed(place, manifest, others):
        yield
        return
    try:
        fence.lift(place, run_id=manifest.run_id)  # the note of a fence that was broken
        fence.raise_fence(place, run_id=manifest.run_id, note="Closed before it is replaced by the backup", others=others)
    except (CannotCheck, StepFailed) as error:
        log.warning("%s could not be fenced before it is replaced: %s", place, error)
        yield
        return
    try:
        yield
    except BaseException:
        if place.exists():
            fence.lift(place, run_id=manifest.run_id)
        raise


def _must_be_closed(place: Path, manifest: Manifest, others: Sequence[Path]) -> bool:
    # Without that hash, a file that is fenced here would count as the one that the run fenced before the backup.
    if not place.is_file() or manifest.fenced_sha256 is None or not holders.hidden_processes():
        return False
    try:
        if fence.status(place, content=False).raised:
            return False
        if other_names.find(place, others).unnamed:  # the fence refuses it, and a way back need not
            return False
    except CannotCheck as error:
        log.warning("%s is not fenced before it is replaced: %s", place, error)
        return False
    is_backup = place.stat().st_size == manifest.bytes and files.digest(place) == manifest.sha256
    return bool(files.side_files(place)) or not is_backup
