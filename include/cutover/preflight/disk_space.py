"""Disk space, checked before every step: a step that a full disk would break is refused before it begins.

The downtime does not begin without space for everything until the backup is made. A step of the way back is never refused:
for it, a reserve beside the evidence is deleted, so that events can still be recorded on a full disk. Steps that know their
need better check it themselves. PostgreSQL's own disk is checked by ``target_disk``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from include.cutover import files
from include.cutover.application import configuration
from include.cutover.errors import Refused
from include.cutover.evidence.record import evidence_root
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.row import Place

log = logging.getLogger(__name__)

EVIDENCE_BYTES = 32 << 20  # events, reports and Data Docs of a run
RESERVE_BYTES = 4 << 20
_SMALL = 1 << 20
_INODES = 100


def require(step: str, plan: Plan, source: Callable[[], Path], *, must_run: bool = False, series: str = "") -> None:
    """Refuse a step that the disks have no space for.

    Args:
        step: Its name in the evidence.
        plan: Names the folders.
        source: Returns the application's SQLite file; called only for steps that need its size.
        must_run: True for a step of the way back: it is not refused, and on a full disk the reserve is deleted for it.
        series: Folder of the runs below the evidence root; the plan's name when left out.

    Raises:
        Refused: Names the place, the bytes needed and the bytes free. Nothing was begun.
    """
    evidence = evidence_root() / (series or plan.name)
    reserve = evidence / ".reserve"
    if must_run:
        if reserve.exists() and _free(evidence) < EVIDENCE_BYTES:
            log.warning("%s is nearly full: the reserve of %s bytes is deleted", evidence, f"{RESERVE_BYTES:,}")
            reserve.unlink(missing_ok=True)
        return
    needs = {evidence: EVIDENCE_BYTES, **_needs(step, plan, source)}
    for place in needs:
        _require_inodes(_existing(place))
    by_folder: dict[Path, int] = {}
    for place, size in needs.items():
        by_folder[_existing(place)] = by_folder.get(_existing(place), 0) + size
    files.require_space(by_folder)
    _keep_reserve(reserve)


def _needs(step: str, plan: Plan, source: Callable[[], Path]) -> Mapping[Path, int]:
    """Return the bytes that the step, and those that follow it without a gate, write into each folder."""
    row, needs = runbook.find(step), dict[Path, int]()
    places = () if row is None else row.writes
    if Place.CONFIGURATION in places and plan.configuration is not None:
        needs[configuration.kept_as(plan.configuration, "", plan.backup.directory).parent] = _SMALL
    if Place.BACKUPS in places:
        live = files.real(source())
        size = sum(item.stat().st_size for item in (live, *files.side_files(live)) if item.exists())
        needs |= for_backups(plan, size)
    return needs


def for_backups(plan: Plan, size: int) -> dict[Path, int]:
    """Return the bytes that are written into each folder of the backup, for a source of ``size`` bytes."""
    decides = any(table.columns or table.foreign_keys for table in plan.tables.values())
    # The backup, the copy that the restore test opens, and what the plan's decisions make of the backup.
    needs = {plan.backup.directory: size * (3 if decides else 2)}
    if plan.backup.second_copy is not None:
        needs[plan.backup.second_copy] = size
    return needs


def _existing(place: Path) -> Path:
    """Return the place, or the nearest folder above it that exists."""
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _free(place: Path) -> int:
    disk = os.statvfs(_existing(place))
    return disk.f_bavail * disk.f_frsize


def _require_inodes(folder: Path) -> None:
    disk = os.statvfs(folder)
    if disk.f_files and disk.f_favail < _INODES:
        raise Refused(
            "the file system can hold no more files",
            where=str(folder),
            expected=f"{_INODES} free inodes",
            found=str(disk.f_favail),
            do="Remove files there, or name another place in the plan.",
        )


def _keep_reserve(reserve: Path) -> None:
    """Take the reserve while there is space. It is optional: errors are ignored."""
    if reserve.exists():
        return
    with suppress(OSError):
        files.make_private(reserve.parent)
        descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)
