"""The file of the source: the one that was checked must be the one that is fenced, backed up and given back."""

from __future__ import annotations

from contextlib import suppress

from include.cutover import files
from include.cutover.errors import Refused
from include.cutover.source import fence, restore
from include.cutover.steps.step import Step

CHECKED = "source.file"
"""Event: the file that ``check_source`` checked, by its inode; a device has another number after a restart of the host."""


def record(step: Step) -> None:
    """Record the file that is checked; a missing one is not recorded."""
    place = files.real(step.source)
    with suppress(OSError):
        step.evidence.append(CHECKED, file=str(place), inode=place.stat().st_ino)


def require_same(step: Step) -> None:
    """Refuse another file in the place of the database: an application that finds none makes a new, empty one.

    Raises:
        Refused: When the file is missing or another one than ``check_source`` checked.
    """
    checked = step.evidence.last(CHECKED) if step.evidence.exists else None
    if checked is None:
        return
    place = files.real(step.source)
    try:
        inode = place.stat().st_ino
    except FileNotFoundError:
        inode = None
    if inode != checked["inode"]:
        raise Refused(
            "the database is missing" if inode is None else "another file lies in the place of the database",
            where=str(place),
            expected=f"the file that check_source checked, inode {checked['inode']}",
            found="no file" if inode is None else f"inode {inode}, {place.stat().st_size:,} bytes",
            do="It was moved or replaced since. Find it and move it back, with its -wal and -journal; keep the other file, "
            f"which may hold rows of its own. {restore.AGAIN}",
        )


def require_fenced(step: Step, *, content: bool) -> None:
    """Refuse a source that is not as this run fenced it.

    Args:
        step: The step.
        content: Also compare the file's hash, which reads it once.

    Raises:
        Refused: When it is not fenced, not intact, or fenced by another run.
    """
    require_same(step)
    state = fence.status(step.source, content=content)
    if not state.raised or not state.intact or state.run_id != step.run_id:
        raise Refused(
            "the source is not as this run fenced it; it may have been written to after the backup",
            where=str(step.source),
            expected=f"the fence of {step.run_id}, intact",
            found=state.detail,
            do="The cutover rolls back. Find out who wrote to it, then start a new run.",
        )
