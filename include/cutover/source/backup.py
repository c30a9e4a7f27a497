"""The backup: everything is copied from it, and a rollback restores it.

It is made through SQLite's backup interface in one step, so that a WAL is part of it and no writer tears it; ``cp`` would
lose the WAL. It lies in two places, carries no fence, and counts only once its manifest lies beside it: the manifest is
written last.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

import apsw

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, Refused, StepFailed
from include.cutover.files import now, slug, sync_folder, write_atomically
from include.cutover.locks import locked
from include.cutover.source import backup_copies, backup_manifest, cloning, fence, fence_header, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.source.backup_manifest import Manifest, manifest_of
from include.cutover.source.fence import FenceState

log = logging.getLogger(__name__)

_WHOLE, _INTENT = "backup", "manifest.json"  # inside the folder of an attempt
_MARGIN = 1 << 20  # bytes, for manifests and folder entries


def take(live: Path, directory: Path, second_copy: Path | None, *, run_id: str, plan: str) -> Manifest:
    """Back the database up into two places, verified.

    The file is named ``<database>.<YYYYmmdd-HHMM>.bak`` by UTC, with the run behind it where that name is taken. Files are
    open to their owner only. The fence's bytes are taken out of the backup; the source is not changed.

    Safe to run again: a backup of the same run is returned when one whole copy of it is left, and the other copy is made
    again from that one. Where the run's fence was raised again since, another backup is taken. Leftovers of a killed attempt
    are finished or removed.

    Args:
        live: The source.
        directory: The first place.
        second_copy: The second place; None when the plan names none.
        run_id: The run that takes it.
        plan: Name of its plan.

    Raises:
        Refused: When a place has not enough room, or both are the same.
        StepFailed: When a place cannot be written, a copy does not read back equal, or the database is not sound.
        CannotCheck: When the source is missing or not a SQLite database.
    """
    database = files.real(live)
    places = [directory] if second_copy is None else [directory, second_copy]
    for place in places:
        files.make_private(place)
    if second_copy is not None and directory.samefile(second_copy):
        raise Refused(
            "both places of the backup are the same",
            where=str(directory),
            expected="another disk for backup.second_copy",
            do="Correct the plan.",
        )
    with locked(directory / f".{database.name}.lock"):
        partials = [place / f".{database.name}.{slug(run_id)}.partial" for place in places]
        with files.disk_errors(directory):
            _finish(partials)
        found = _of_run(directory, database, run_id, plan)
        return found if found is not None else _take(_Attempt(database, places, partials, run_id, plan))


@dataclass(frozen=True)
class _Attempt:
    """One attempt to take a backup.

    Attributes:
        database: The source, symbolic links followed.
        places: Folders of the backup, the first place first.
        partials: A folder in each place that holds the attempt's files until they are whole.
        run_id: The run that takes it.
        plan: Name of its plan.
    """

    database: Path
    places: list[Path]
    partials: list[Path]
    run_id: str
    plan: str


@dataclass(frozen=True)
class _Content:
    faults: list[str]
    schema_fingerprint: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    sqlite_sequence: Mapping[str, int] = field(default_factory=dict)


def _take(attempt: _Attempt) -> Manifest:
    state, found = fence.status(attempt.database, content=False), _stat(attempt.database)
    wal = attempt.database.with_name(f"{attempt.database.name}-wal")
    size = found.st_size + (wal.stat().st_size if wal.exists() else 0) + _MARGIN
    files.require_space(dict.fromkeys(attempt.places, size))
    original = state.original or fence_header.versions(attempt.database)
    try:
        taken = _manifest(attempt, state, found, *_copy(attempt, original, state.other_names))
        with files.disk_errors(attempt.places[0]):
            for partial in reversed(attempt.partials):  # the first one's makes this attempt one that can be finished
                write_atomically(partial / _INTENT, taken.to_json().encode(), 0o600)
    except BaseException:
        for partial in attempt.partials:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    # From here on an attempt that fails or is killed is finished by the next one.
    with files.disk_errors(attempt.places[0]):
        _finish(attempt.partials)
    for warning in taken.warnings:
        log.warning("%s: %s", taken.file, warning)
    return taken


def _copy(attempt: _Attempt, original: tuple[int, int], others: Sequence[Path]) -> tuple[str, _Content]:
    """Clone the database into the first partial folder, without the fence, and copy the clone into the second.

    Returns:
        SHA-256 and content of the sound backup.
    """
    partials = attempt.partials
    for partial in partials:
        files.make_private(partial)
    first = partials[0] / _WHOLE
    try:
        cloning.clone(attempt.database, first, others=others)
    except StepFailed as error:
        raise StepFailed(error.message, where=str(attempt.places[0]), found=error.found, do=error.do) from None
    fence_header.remove_fence_from_copy(first, original)
    with ThreadPoolExecutor(1) as pool:
        awaited = pool.submit(_content, first)
        second = partials[1] / _WHOLE if len(partials) > 1 else None
        digest = files.digest(first) if second is None else files.copy_verified(first, second)
        content = awaited.result()
    if content.faults:
        raise StepFailed(
            "the database is not sound, so its backup is not either",
            where=str(attempt.database),
            expected="PRAGMA integrity_check: ok",
            found="; ".join(content.faults[:5]),
            do="Repair the source first, e.g. with sqlite3's .recover into a new file.",
        )
    return digest, content


def _manifest(attempt: _Attempt, state: FenceState, found: os.stat_result, digest: str, content: _Content) -> Manifest:
    """Return the manifest of the attempt's backup, under names that are free; writes nothing.

    Args:
        attempt: Its clone is whole.
        state: The fence while the backup was taken.
        found: The source's size, mode and owner.
        digest: SHA-256 of the backup.
        content: Of the backup.
    """
    places = attempt.places
    copies = _free_names(places, attempt.database.name, attempt.run_id)
    return Manifest(
        file=copies[0],
        second_file=copies[1] if len(copies) > 1 else None,
        bytes=(attempt.partials[0] / _WHOLE).stat().st_size,
        sha256=digest,
        sqlite_version=apsw.sqlite_lib_version(),
        schema_fingerprint=content.schema_fingerprint,
        counts=content.counts,
        sqlite_sequence=content.sqlite_sequence,
        run_id=attempt.run_id,
        plan=attempt.plan,
        source=attempt.database,
        time=now(),
        same_device=places[0].stat().st_dev == (places[1].stat().st_dev if len(places) > 1 else found.st_dev),
        fenced=_is_of_run(state, attempt.run_id),
        mode=stat.S_IMODE(found.st_mode) if state.mode is None else state.mode,
        uid=found.st_uid,
        gid=found.st_gid,
        fenced_sha256=state.sha256 if _is_of_run(state, attempt.run_id) else None,
    )


def _content(backup: Path) -> _Content:
    faults = snapshots.integrity(backup)
    if faults:
        return _Content(faults)
    with snapshots.snapshot(backup) as connection:
        return _Content(
            faults,
            source_schema.schema_fingerprint(connection),
            source_schema.counts(connection, source_schema.tables(connection)),
            source_schema.sqlite_sequence(connection),
        )


def _finish(partials: list[Path]) -> None:
    """Rename whole copies and publish the manifest; remove attempts that are not whole. Safe to run again, and half-done."""
    try:
        found: Manifest | None = backup_manifest.load(partials[0] / _INTENT)
    except CannotCheck:
        found = None
    if found is not None:
        for path, partial in zip(found.copies, partials, strict=False):
            if not path.exists() and (partial / _WHOLE).exists():
                (partial / _WHOLE).rename(path)
                sync_folder(path.parent)
        if all(path.exists() for path in found.copies):
            # The manifest beside the first copy makes the backup count: it gets its name last.
            for path, partial in reversed(list(zip(found.copies, partials, strict=False))):
                if (partial / _INTENT).exists():
                    (partial / _INTENT).rename(manifest_of(path))
                    sync_folder(path.parent)
    for partial in partials:
        if partial.exists():
            shutil.rmtree(partial)


def _of_run(directory: Path, database: Path, run_id: str, plan: str) -> Manifest | None:
    """Return the run's backup with every copy whole; None where there is none, or none of its copies is whole.

    Nor is one returned that was taken under another fence than the run's fence of now: the file may have been written to
    between the two.
    """
    state = fence.status(database, content=False)
    for path in sorted(directory.iterdir(), reverse=True):
        if not (path.name.startswith(f"{database.name}.") and path.name.endswith(f".bak{backup_manifest.SUFFIX}")):
            continue
        try:
            found = backup_manifest.load(path)
        except CannotCheck as error:
            log.warning("not deleted: %s", error)
            continue
        if (found.run_id, found.plan, found.source) != (run_id, plan, database):
            continue
        if _is_of_run(state, run_id) and found.fenced_sha256 != state.sha256:
            log.warning("%s was taken before the fence of now was raised: another backup is taken", found.file)
        elif backup_copies.repair(found):
            return found
    return None


def _is_of_run(state: FenceState, run_id: str) -> bool:
    return state.raised and state.run_id == run_id


def _free_names(places: list[Path], database: str, run_id: str) -> list[Path]:
    """Return names for the backup that are free in all places; an existing file is never overwritten."""
    stem = f"{database}.{datetime.now(UTC):%Y%m%d-%H%M}"
    names = chain([stem, f"{stem}-{slug(run_id)}"], (f"{stem}-{slug(run_id)}-{number}" for number in count(2)))
    for name in names:
        copies = [place.resolve() / f"{name}.bak" for place in places]
        if not any(os.path.lexists(path) or manifest_of(path).exists() for path in copies):
            return copies
    raise AssertionError("count() has no end")


def _stat(database: Path) -> os.stat_result:
    try:
        return database.stat()
    except OSError as error:
        raise CannotCheck(
            "the database cannot be read", where=str(database), found=rights.reason(error), do="Let the tasks' user read it."
        ) from None
