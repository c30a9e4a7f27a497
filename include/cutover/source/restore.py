"""The way back: the backup put in the place of the database, and the files found there kept.

The order makes it safe. A whole and verified copy of the backup lies ready beside the database before anything is
moved. Then the found database goes, and its ``-wal``, ``-shm``, ``-journal`` and fence note after it. Only when none of them
is left, durably, the copy gets the database's name: a log that stayed would be replayed into the restored file, and a check
of integrity would not notice. Killed in between, there is no database: better than a wrong one, and the next attempt
finishes.

The file found there is examined first (``found_file``): one that holds rows beyond the backup is not replaced.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.files import sync_folder
from include.cutover.locks import locked
from include.cutover.source import backup_archive, fence_note, found_file, holders, snapshots
from include.cutover.source.backup_manifest import Manifest
from include.cutover.source.fence_note import note_path
from include.cutover.source.found_file import Found

log = logging.getLogger(__name__)

OnFound = Callable[[Found, Path | None], object]
"""Called with the file found before it is moved, and its folder in the evidence; None where it stays."""

_COMPLETE = ".complete"
"""A file in a set of kept files: the restore that moved them is done. A later one begins another set."""

_MARGIN = 1 << 20  # bytes, for folder entries

AGAIN = "Then clear the failed task with all after it or trigger the rollback again; without Airflow, run the command again."
REPLACE_IT = "To replace the file all the same, trigger the rollback again and type {rows} as rows to give up."


@dataclass(frozen=True)
class RestoreResult:
    """A restored database.

    Attributes:
        file: The database, symbolic links followed.
        sha256: Of the file in place, read back; equal to the backup's.
        bytes: Its size.
        copy: The copy of the backup that it came from; None when it was in place already.
        kept: The files found in its place, where they are now; of this attempt and of earlier ones.
        already: The backup was in place already; nothing was done.
        checks: The checks that were made afterwards; all passed.
        found: The file that was in its place; None where that was the backup.
        stays: That file was left as it is, and a fence around it too: it is the newest state, or equal to a backup of which
            no copy is intact.
    """

    file: Path
    sha256: str
    bytes: int
    copy: Path | None
    kept: tuple[Path, ...]
    already: bool
    checks: tuple[Check, ...]
    found: Found | None = None
    stays: bool = False


def restore(
    database: Path,
    manifest: Manifest,
    kept: Path,
    *,
    give_up_rows: int | None = None,
    changes: int = 0,
    on_found: OnFound = lambda _found, _folder: None,
) -> RestoreResult:
    """Replace the database by the backup; move the files found there into ``kept``.

    A file that holds rows beyond the backup stays in its place; see ``found_file``. When the first copy is damaged, the
    second one is used; when none is intact, a file that is as the run fenced it stays. Owner, group and mode are those from
    before the fence. Safe to run again, also after a kill at any instant: each found file is kept once, and a backup in
    place is known by its hash.

    Args:
        database: The place of the database.
        manifest: The backup's.
        kept: Folder of the evidence for the files found; made where missing. A second set of files goes into a folder ``2``
            in it, and so on: kept files are never overwritten.
        give_up_rows: Number of rows beyond the backup that a person agreed to lose from the database's place.
        changes: See ``found_file.examine``.
        on_found: See ``OnFound``.

    Raises:
        Refused: When a process has the database open (it is named), no copy of the backup is intact, there is no room, the
            file is a mount of its own, or it cannot be given to its owner. Also when a person must decide: the file holds
            rows beyond the backup and cannot be used, or another number of them than the person agreed to. Nothing was
            moved.
        CannotCheck: When the open files of processes cannot be checked.
        StepFailed: When a place cannot be written, or the restored file is not the backup.
    """
    place = files.real(database)
    if files.is_mount(place):
        raise Refused(
            "the database is a mount of its own and cannot be replaced in one step",
            where=str(place),
            do="Mount its folder instead. To go back now, write the backup into the file by hand.",
        )
    _require_fence_of(place, manifest)
    files.make_private(kept)
    with locked(kept / ".lock"):
        ready = ready_path(place)
        found_file.clear(place)
        if _is_backup(place, manifest) and not _found(place):
            with files.disk_errors(ready):
                ready.unlink(missing_ok=True)
                _give(place, manifest)
                sync_folder(place.parent)
            return _result(place, manifest, None, kept)
        return _examine_and_replace(place, manifest, kept, ready, give_up_rows, changes, on_found)


def ready_path(place: Path) -> Path:
    """Return the path of the copy that lies ready beside the database before it gets its name."""
    return place.with_name(f".{place.name}.restored")


def _examine_and_replace(
    place: Path,
    manifest: Manifest,
    kept: Path,
    ready: Path,
    give_up_rows: int | None,
    changes: int,
    on_found: OnFound,
) -> RestoreResult:
    _require_nobody(place)
    copy, damage = _ready_or_damage(manifest, place, ready)
    stamps = _stamps(place)
    try:
        found = found_file.examine(place, manifest, ready if copy is not None else None, changes)
        if copy is None and found.state not in ("fenced", "newer"):
            raise _no_copy(manifest, damage)
        if _stays(found, place, give_up_rows, can_replace=copy is not None and _has_room_for_found(place, kept)):
            on_found(found, None)
            _forget(ready)
            kept_before = _kept(place, kept)
            return RestoreResult(place, files.digest(place), found.bytes, None, kept_before, False, (), found, stays=True)
        _require_room_for_found(place, kept)
        _require_nobody(place)
        folder = _folder_for(place, kept)
        on_found(found, folder)
        if _stamps(place) != stamps:
            raise Refused(
                "the database was written to while it was examined",
                where=str(place),
                do=f"Find the program that uses it, and end it. {AGAIN}",
            )
    except BaseException:
        _forget(ready)
        raise
    _move_away(place, folder)
    with files.disk_errors(place):
        ready.rename(place)
        sync_folder(place.parent)
    with files.disk_errors(folder):
        (folder / _COMPLETE).touch()
    return replace(_result(place, manifest, copy, kept), found=found)


def _require_fence_of(place: Path, manifest: Manifest) -> None:
    """Refuse a database that another run has fenced; an unreadable note is no reason to stay down."""
    note = None
    with suppress(CannotCheck):
        note = fence_note.read(place)
    if note is not None and note.run_id != manifest.run_id:
        raise fence_note.of_another_run(place, note)


def _stamps(place: Path) -> list[tuple[str, int, int, int, int]]:
    """Return what shows a write to the database or to a file beside it."""
    found = [(path, path.stat()) for path in (place, *files.side_files(place)) if path.exists()]
    return [(path.name, item.st_ino, item.st_size, item.st_mtime_ns, item.st_ctime_ns) for path, item in found]


def _forget(ready: Path) -> None:
    with suppress(OSError):
        ready.unlink(missing_ok=True)


def _stays(found: Found, place: Path, give_up_rows: int | None, *, can_replace: bool) -> bool:
    """Decide whether the file stays in its place; one that is as the run fenced it stays where it cannot be replaced.

    Raises:
        Refused: When a person must decide, or agreed to another number of rows.
    """
    if found.state == "fenced":
        return not can_replace
    if found.replaceable:
        return False
    beyond = found.differences.beyond
    if give_up_rows is not None and give_up_rows != beyond:
        raise Refused(
            "the file holds another number of rows beyond the backup than the number given up",
            where=str(place),
            expected=f"{give_up_rows:,}",
            found=f"{beyond:,}; {found.holds}",
            do=f"{REPLACE_IT.format(rows=beyond)} Without a number the file stays as it is where it is sound.",
        )
    if give_up_rows is not None:
        return False
    if found.state == "newer":
        return True
    raise Refused(
        "the file is not the backup, may hold rows beyond it, and cannot be used in its place",
        where=str(place),
        expected="the backup, the fenced source, or either with what was written since",
        found=found.holds,
        do=f"Save these rows if the application needs them. {REPLACE_IT.format(rows=beyond)} It is kept in the evidence.",
    )


def _require_nobody(place: Path) -> None:
    found = holders.open_files(place)
    if found:
        raise Refused(
            "a process has the database open",
            where=str(place),
            expected="no process",
            found=holders.describe(found),
            do=f"End it: it would continue to write to the old file. {AGAIN}",
        )


def _is_backup(path: Path, manifest: Manifest) -> bool:
    return path.is_file() and path.stat().st_size == manifest.bytes and files.digest(path) == manifest.sha256


def _found(place: Path) -> list[Path]:
    """Return the files beside the database that must go: its side files, and the fence's note last."""
    note = note_path(place)
    return [*files.side_files(place), *([note] if note.exists() else [])]


def _make_ready(manifest: Manifest, ready: Path) -> tuple[Path | None, list[str]]:
    """Write a durable copy of the backup, with the original's owner and mode; verify it by reading it from the device.

    Returns:
        The copy that it was made from, and the damage of those before it. The copy is None when none is intact.
    """
    with files.disk_errors(ready):
        ready.unlink(missing_ok=True)
    files.require_space({ready.parent: manifest.bytes + _MARGIN})
    damage = []
    archived = [path for path in manifest.archives if path.exists()]
    for path in [*(path for path in manifest.copies if path.exists() or not archived), *archived]:
        try:
            digest = backup_archive.extract(path, ready) if path in archived else files.copy(path, ready)
        except CannotCheck as error:
            damage.append(str(error))
            log.error("%s", error)
            continue
        if digest == manifest.sha256:
            break
        damage.append(f"{path} has the SHA-256 {digest}")
        log.error("the backup %s is damaged: its SHA-256 is %s, not %s", path, digest, manifest.sha256)
        with files.disk_errors(ready):
            ready.unlink()
    else:
        return None, damage
    try:
        with files.disk_errors(ready):
            _give(ready, manifest)
        found = files.digest(ready, from_disk=True)
        if found != manifest.sha256:
            raise StepFailed(
                "the copy does not read back as it was written; the database is unchanged",
                where=str(ready.parent),
                expected=f"SHA-256 {manifest.sha256}",
                found=found,
                do="Do not trust that disk; repair it, then run the step again.",
            )
    except BaseException:
        _forget(ready)
        raise
    return path, damage


def _ready_or_damage(manifest: Manifest, place: Path, ready: Path) -> tuple[Path | None, list[str]]:
    """As ``_make_ready``. Without room for a copy, a file that is as the run fenced it needs none."""
    try:
        return _make_ready(manifest, ready)
    except CutoverError as error:
        if not found_file.is_as_fenced(place, manifest):
            raise
        log.warning("%s", error)
        return None, [str(error)]


def _no_copy(manifest: Manifest, damage: list[str]) -> Refused:
    return Refused(
        "no copy of the backup is intact; the database is unchanged",
        where=str(manifest.file),
        expected=f"SHA-256 {manifest.sha256}",
        found="; ".join(damage),
        do=f"Put an intact copy of the backup there. {AGAIN}",
    )


def _give(path: Path, manifest: Manifest) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        files.give(descriptor, path, manifest.uid, manifest.gid, manifest.mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_room_for_found(place: Path, kept: Path) -> bool:
    try:
        _require_room_for_found(place, kept)
    except Refused as error:
        log.warning("%s", error)
        return False
    return True


def _require_room_for_found(place: Path, kept: Path) -> None:
    if kept.stat().st_dev != place.parent.stat().st_dev:
        found = [path for path in (place, *_found(place)) if path.exists()]
        files.require_space({kept: sum(path.stat().st_size for path in found) + _MARGIN})


def _folder_for(place: Path, kept: Path) -> Path:
    """Return the set of ``kept`` that the files found go into; no file there is overwritten."""
    found = _all_found(place)
    # A killed attempt may have left its set half-filled, or a file in both places: that set is continued.
    sets = [kept, *(kept / str(number) for number in _numbers(kept))]
    open_sets = [item for item in sets if not (item / _COMPLETE).exists()]
    fitting = (item for item in reversed(open_sets) if all(_fits(path, item / path.name) for path in found))
    return next(fitting, kept / str(max(_numbers(kept), default=1) + 1))


def _all_found(place: Path) -> list[Path]:
    """Return everything that must go, the database first: without it, no log can be taken for its own."""
    return [path for path in (place, *_found(place)) if os.path.lexists(path)]


def _move_away(place: Path, folder: Path) -> None:
    files.make_private(folder)
    for path in _all_found(place):
        files.move(path, folder / path.name)
        log.warning("%s was found and is kept in %s", path.name, folder)


def _fits(path: Path, to: Path) -> bool:
    """Check that nothing is lost when ``path`` becomes ``to``."""
    if not to.exists():
        return True
    return path.stat().st_size == to.stat().st_size and files.digest(path) == files.digest(to)


def _numbers(kept: Path) -> list[int]:
    return sorted(int(item.name) for item in kept.iterdir() if item.is_dir() and item.name.isdigit())


def _names(place: Path) -> list[str]:
    return [place.name, *(place.name + suffix for suffix in files.SIDE_FILES), note_path(place).name]


def _kept(place: Path, kept: Path) -> tuple[Path, ...]:
    sets = [kept, *(kept / str(number) for number in _numbers(kept))]
    return tuple(path for folder in sets for name in _names(place) if (path := folder / name).exists())


def _result(place: Path, manifest: Manifest, copy: Path | None, kept: Path) -> RestoreResult:
    beside = _found(place)
    digest = files.digest(place)
    faults = snapshots.integrity(place) if not beside else []

    def check(name: str, title: str, passed: bool, expected: str, found: str) -> Check:
        return Check(f"restored_{name}", title, "passed" if passed else "failed", expected, found, where=str(place))

    checks = (
        check("hash", "The restored database is the backup", digest == manifest.sha256, manifest.sha256, digest),
        check(
            "alone", "No log lies beside it", not beside, "no side files", ", ".join(item.name for item in beside) or "none"
        ),
        check("integrity", "It is sound", not faults, "ok", "; ".join(faults[:5]) or "ok"),
    )
    wrong = [item for item in checks if item.outcome != "passed"]
    if wrong:
        raise StepFailed(
            "the restored database failed its checks",
            where=str(place),
            expected="; ".join(item.expected for item in wrong),
            found="; ".join(item.found for item in wrong),
            do="A process uses the file while it is restored: end that process, then run the step again.",
        )
    return RestoreResult(place, digest, manifest.bytes, copy, _kept(place, kept), copy is None, checks)
