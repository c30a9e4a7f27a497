"""The file of the source: the one that was checked must be the one that is fenced, backed up and given back."""

from __future__ import annotations

from contextlib import suppress

from include.cutover import files
from include.cutover.errors import CannotCheck, Refused
from include.cutover.source import fence, fence_header, restore
from include.cutover.source.writable import Owner
from include.cutover.steps.step import Step

CHECKED = "source.file"
"""Event: the file that ``check_source`` checked, by inode, owner and SQLite's change counter, which does not go back.

A device has another number after a restart of the host, and a file system gives the number of a removed file away again.
"""


def record(step: Step) -> None:
    """Record the file that is checked; a missing one is not recorded."""
    place = files.real(step.source)
    with suppress(OSError, CannotCheck):
        changes, found = fence_header.change_counter(place), place.stat()
        owner = {"uid": found.st_uid, "gid": found.st_gid}
        step.evidence.append(CHECKED, file=str(place), inode=found.st_ino, changes=changes, **owner)


def owner_before(step: Step) -> Owner | None:
    """Return the owner of the file that ``check_source`` checked; None where it is not known."""
    checked = step.evidence.last(CHECKED) if step.evidence.exists else None
    return Owner(checked["uid"], checked["gid"]) if checked is not None and "uid" in checked else None


def changes_before(step: Step) -> int:
    """Return the change counter of the file that ``check_source`` checked; 0 where it is not known."""
    checked = step.evidence.last(CHECKED) if step.evidence.exists else None
    return int((checked or {}).get("changes") or 0)


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
    made_anew = False
    with suppress(CannotCheck):
        made_anew = fence_header.change_counter(place) < changes_before(step)
    if inode != checked["inode"] or made_anew:
        raise Refused(
            "the database is missing" if inode is None else "another file lies in the place of the database",
            where=str(place),
            expected=f"the file that check_source checked, inode {checked['inode']}",
            found="no file"
            if inode is None
            else f"inode {inode}, {place.stat().st_size:,} bytes"
            + (", with fewer changes than that one had" if made_anew else ""),
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
