"""The backup: what everything is copied from, and what a rollback restores.

It is made through SQLite's backup interface in one step, so that a WAL is part of it and no writer tears it; ``cp`` would
lose the WAL. It lies in two places, carries no fence, and counts only once its manifest lies beside it: the manifest is
written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

from include.cutover import files
from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck, Refused, StepFailed
from include.cutover.files import now, slug, sync_folder, write_atomically
from include.cutover.locks import locked
from include.cutover.source import fence
from include.cutover.source import schema as source_schema

log = logging.getLogger(__name__)

_VERSION = 1
_MANIFEST = ".manifest.json"
_WHOLE, _INTENT = "backup", "manifest.json"  # inside the folder of an attempt
_MARGIN = 1 << 20  # bytes, for manifests and folder entries


@dataclass(frozen=True)
class Manifest:
    """What is known of a backup, as it lies beside it in JSON.

    Attributes:
        file: The backup.
        second_file: Its copy in the second place; None when the plan names none.
        bytes: Its size.
        sha256: Of the whole file; its integrity was checked under this hash.
        sqlite_version: Of the library that made it.
        schema_fingerprint: See ``source.schema_fingerprint``.
        counts: Table → rows.
        sqlite_sequence: Table → the greatest key that AUTOINCREMENT gave away.
        run_id: The run that took it.
        plan: Of that run.
        source: The database it was taken from, symbolic links followed.
        time: When it was taken, UTC.
        same_device: Both copies lie on one device, or the only one lies on the source's.
        fenced: The source was fenced while it was taken, so that nothing was written after it.
        mode: The source's mode; before the fence, where there was one.
        uid: The source's owner.
        gid: The source's group.
        archive: The backup compressed by retention, which then takes the file away; None while it was not.
        second_archive: The same of its copy.
    """

    file: Path
    second_file: Path | None
    bytes: int
    sha256: str
    sqlite_version: str
    schema_fingerprint: str
    counts: Mapping[str, int]
    sqlite_sequence: Mapping[str, int]
    run_id: str
    plan: str
    source: Path
    time: str
    same_device: bool
    fenced: bool
    mode: int
    uid: int
    gid: int
    archive: Path | None = None
    second_archive: Path | None = None

    @property
    def path(self) -> Path:
        """Where the manifest lies."""
        return manifest_of(self.file)

    @property
    def copies(self) -> tuple[Path, ...]:
        """The files of the backup, the first place first."""
        return (self.file,) if self.second_file is None else (self.file, self.second_file)

    @property
    def archives(self) -> tuple[Path, ...]:
        """Compressed copies, see ``backup_archive``; where there are some, the files may be gone."""
        return tuple(path for path in (self.archive, self.second_archive) if path is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know, in plain words."""
        found = []
        if self.same_device:
            both = "both copies of the backup lie" if self.second_file is not None else "the backup and the source lie"
            found.append(f"{both} on the same device: one broken disk takes both")
        if not self.fenced:
            found.append("the source was not fenced: what is written to it after the backup is not in the backup")
        return tuple(found)

    def to_json(self) -> str:
        """The manifest's file: the fields, a version, and a hash over both that shows damage."""
        fields = {"version": _VERSION, **asdict(self)}
        fields = {name: value for name, value in fields.items() if value is not None or not name.endswith("archive")}
        fields = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
        return json.dumps({**fields, "manifest_sha256": _digest_of(fields)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Manifest:
        """Read ``to_json``'s text.

        Raises:
            CannotCheck: When it is damaged or of another version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            found = data.pop("manifest_sha256")
            version = data["version"]
            if version == _VERSION and found == _digest_of(data):
                del data["version"]
                for name in {"file", "second_file", "source", "archive", "second_archive"} & data.keys():
                    data[name] = None if data[name] is None else Path(data[name])
                return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError):
            version = _VERSION
        if version != _VERSION:
            raise CannotCheck(
                "the backup's manifest is of another version",
                where=where,
                expected=str(_VERSION),
                found=str(version),
                do="Use the version of this project that took the backup.",
            )
        raise CannotCheck(
            "the backup's manifest is damaged",
            where=where,
            do="Use the one beside the other copy, or the hash in the evidence.",
        )


def facts(manifest: Manifest) -> dict[str, Any]:
    """What the evidence records of a backup; ``load(manifest, second_manifest)`` reads it again."""
    return {
        "manifest": str(manifest.path),
        "second_manifest": None if manifest.second_file is None else str(manifest_of(manifest.second_file)),
        "file": str(manifest.file),
        "second_file": None if manifest.second_file is None else str(manifest.second_file),
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "sqlite_version": manifest.sqlite_version,
        "schema_fingerprint": manifest.schema_fingerprint,
        "rows": sum(manifest.counts.values()),
        "taken_at": manifest.time,
        "same_device": manifest.same_device,
        "fenced": manifest.fenced,
        "warnings": list(manifest.warnings),
    }


def load(*paths: Path) -> Manifest:
    """The manifest in the first of the files that is readable and whole; each copy of a backup has one.

    Raises:
        CannotCheck: When none is; the error is the first file's.
    """
    first: CannotCheck | None = None
    for path in paths:
        try:
            return Manifest.from_json(path.read_text(), str(path))
        except CannotCheck as error:
            first = first or error
        except (OSError, UnicodeDecodeError) as error:
            first = first or CannotCheck(
                "the backup's manifest cannot be read",
                where=str(path),
                found=getattr(error, "strerror", None) or type(error).__name__,
                do="Use the one beside the other copy.",
            )
    raise first or CannotCheck("no manifest was named")


def take(live: Path, directory: Path, second_copy: Path | None, *, run_id: str, plan: str) -> Manifest:
    """Back the database up into two places, verified.

    The file is named ``<database>.<YYYYmmdd-HHMM>.bak`` by UTC, with the run behind it where that name is taken. Files are
    open to their owner only. The fence's bytes are taken out of the backup; the source is not changed.

    Safe to run again: a backup of the same run is returned when one whole copy of it is left, and the other copy is made
    whole from that one. What a killed attempt left is finished or removed.

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
        return found if found is not None else _take(database, places, partials, run_id, plan)


def verify(manifest: Manifest) -> list[Check]:
    """Whether every copy is there, of the right size and hash; unknown where a copy cannot be read.

    Integrity was checked when the backup was taken, under the same hash; ``restore_test`` checks it anew.
    """
    with ThreadPoolExecutor(len(manifest.copies)) as pool:
        found = pool.map(_verify_copy, manifest.copies, repeat(manifest), ("backup", "second_copy"))
        return [check for checks in found for check in checks]


def _verify_copy(path: Path, manifest: Manifest, name: str) -> list[Check]:
    words = {"backup": "The backup", "second_copy": "The second copy"}[name]
    do = "Run take_backup again: it makes this copy anew from a whole one."

    def check(what: str, title: str, outcome: Outcome, expected: str, found: str) -> Check:
        advice = "" if outcome == "passed" else do
        return Check(f"{name}_{what}", f"{words} {title}", outcome, expected, found, advice, str(path))

    try:
        size, digest = path.stat().st_size, files.digest(path)
    except FileNotFoundError:
        return [check("present", "is there", "failed", "a file", "none")]
    except (OSError, CannotCheck) as error:
        return [check("present", "is there", "unknown", "a file", f"it cannot be read: {error}")]
    equal: Outcome = "passed" if digest == manifest.sha256 else "failed"
    sized: Outcome = "passed" if size == manifest.bytes else "failed"
    checked = "checked when it was taken" if equal == "passed" else "this is not the file that was checked"
    return [
        check("present", "is there", "passed", "a file", "a file"),
        check("size", "has its size", sized, f"{manifest.bytes:,} bytes", f"{size:,} bytes"),
        check("hash", "has its hash", equal, manifest.sha256, digest),
        check("integrity", "is sound", equal, "integrity checked under this hash", checked),
    ]


def restore_test(
    manifest: Manifest, scratch: Path, *, digests: Callable[[Path], Mapping[str, str]] | None = None
) -> list[Check]:
    """Open the backup elsewhere, as a restore would, and compare it with the source.

    The second copy is used where there is one. Its content is compared with the fenced source itself; without the run's
    fence, with the backup's first file. Safe to run again; leaves nothing behind.

    Args:
        scratch: Folder with room for the backup.
        digests: Gives table → digest of a file's content; called for the source and for the restored copy. With
            ``content.source_digests`` the proof of the target can use those of the source again. ``content_digests`` when
            left out.

    Returns:
        Hash, integrity, rows per table, and the content of every table, by default as a SHA3-256 over all columns in the
        key's order.

    Raises:
        Refused: When the scratch place has not enough room.
        CannotCheck: When a copy cannot be read or a table not be hashed.
        StepFailed: When the scratch place cannot be written.
    """
    tested = manifest.copies[-1]
    files.make_private(scratch)
    files.require_space({scratch: manifest.bytes + _MARGIN})
    restored = scratch / f"{manifest.file.name}.restored"

    def check(name: str, title: str, passed: bool, expected: str, found: str) -> Check:
        do = "" if passed else "Do not rely on this backup: lift the fence or take another one."
        return Check(f"restore_test_{name}", title, "passed" if passed else "failed", expected, found, do, str(tested))

    try:
        digest = files.copy(tested, restored)
        checks = [check("hash", "The copy is the backup", digest == manifest.sha256, manifest.sha256, digest)]
        if digest != manifest.sha256:
            return checks
        reference = _reference(manifest)
        with ThreadPoolExecutor(2) as pool:
            of_content = digests or content_digests
            awaited = pool.submit(of_content, reference)
            faults = source_schema.integrity(restored)
            found = of_content(restored) if not faults else {}
            expected = awaited.result()
        checks.append(check("integrity", "The copy is sound", not faults, "ok", "; ".join(faults[:5]) or "ok"))
        if faults:
            return checks
        with source_schema.snapshot(restored) as connection:
            rows = source_schema.counts(connection, source_schema.tables(connection))
        wrong = _differences(manifest.counts, rows)
        checks.append(
            check(
                "counts", "The copy has every row", not wrong, f"{sum(manifest.counts.values()):,} rows", wrong or "the same"
            )
        )
        wrong = _differences(expected, found)
        title = f"Every table of the copy holds what {reference.name} holds"
        checks.append(check("content", title, not wrong, f"{len(expected)} equal digests", wrong or "the same"))
        return checks
    finally:
        restored.unlink(missing_ok=True)


def content_digests(snapshot: Path) -> dict[str, str]:
    """Table → SHA3-256, in hex, of all its values with their storage classes, in the order of its key.

    SQLite itself streams the rows through the hash; memory stays flat.

    Raises:
        CannotCheck: When the file cannot be read, or a table not be queried.
    """
    with source_schema.snapshot(snapshot) as connection:
        apsw.sqlite_extra.load(connection, "shathree")
        found = {}
        for table in source_schema.tables(connection):
            shape = source_schema.shape(connection, table)
            order = ", ".join(_by(key) for key in shape.order) or shape.rowid
            # Where every name of the rowid is shadowed, a scan without an index still goes by it.
            query = f"SELECT * FROM main.{source_schema.quote(table)}"  # noqa: S608  quoted
            query += f" ORDER BY {order}" if order else " NOT INDEXED"
            found[table] = bytes(connection.execute("SELECT sha3_query(?, 256)", (query,)).get).hex()
        return found


def _by(key: source_schema.KeyColumn) -> str:
    return f"{source_schema.quote(key.name)} COLLATE {source_schema.quote(key.collation)}{' DESC' if key.descending else ''}"


def _reference(manifest: Manifest) -> Path:
    """The fenced source where it stands as this run fenced it: nobody writes to it. Else the first copy."""
    try:
        state = fence.status(manifest.source, content=False)
    except CannotCheck:
        return manifest.file
    return manifest.source if state.intact and state.run_id == manifest.run_id else manifest.file


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The tables that differ, with what was expected and found; empty when none does."""
    wrong = sorted(table for table in expected.keys() | found.keys() if expected.get(table) != found.get(table))
    shown = [
        f"{table}: {expected.get(table, 'nothing')!s:.16} became {found.get(table, 'nothing')!s:.16}" for table in wrong[:10]
    ]
    return "; ".join(shown) + (f" and {len(wrong) - 10} more tables" if len(wrong) > 10 else "")


# --- taking it ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    faults: list[str]
    schema_fingerprint: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    sqlite_sequence: Mapping[str, int] = field(default_factory=dict)


def _take(database: Path, places: list[Path], partials: list[Path], run_id: str, plan: str) -> Manifest:
    state, found = fence.status(database, content=False), _stat(database)
    wal = database.with_name(f"{database.name}-wal")
    size = found.st_size + (wal.stat().st_size if wal.exists() else 0) + _MARGIN
    files.require_space(dict.fromkeys(places, size))
    original = state.original or fence.versions(database)
    try:
        for partial in partials:
            files.make_private(partial)
        first = partials[0] / _WHOLE
        try:
            source_schema.clone(database, first)
        except StepFailed as error:
            raise StepFailed(error.message, where=str(places[0]), found=error.found, do=error.do) from None
        fence.give_original_bytes(first, original)
        with ThreadPoolExecutor(1) as pool:
            awaited = pool.submit(_look_into, first)
            second = partials[1] / _WHOLE if len(partials) > 1 else None
            digest = files.digest(first) if second is None else files.copy_verified(first, second)
            content = awaited.result()
        if content.faults:
            raise StepFailed(
                "the database is not sound, so its backup is not either",
                where=str(database),
                expected="PRAGMA integrity_check: ok",
                found="; ".join(content.faults[:5]),
                do="Repair the source first, e.g. with sqlite3's .recover into a new file.",
            )
        copies = _free_names(places, database.name, run_id)
        manifest = Manifest(
            file=copies[0],
            second_file=copies[1] if len(copies) > 1 else None,
            bytes=first.stat().st_size,
            sha256=digest,
            sqlite_version=apsw.sqlite_lib_version(),
            schema_fingerprint=content.schema_fingerprint,
            counts=content.counts,
            sqlite_sequence=content.sqlite_sequence,
            run_id=run_id,
            plan=plan,
            source=database,
            time=now(),
            same_device=places[0].stat().st_dev == (places[1].stat().st_dev if len(places) > 1 else found.st_dev),
            fenced=state.raised and state.run_id == run_id,
            mode=stat.S_IMODE(found.st_mode) if state.mode is None else state.mode,
            uid=found.st_uid,
            gid=found.st_gid,
        )
        with files.disk_errors(places[0]):
            for partial in reversed(partials):  # the first one's makes this attempt one that can be finished
                write_atomically(partial / _INTENT, manifest.to_json().encode(), 0o600)
    except BaseException:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    # From here on an attempt that fails or is killed is finished by the next one.
    with files.disk_errors(places[0]):
        _finish(partials)
    for warning in manifest.warnings:
        log.warning("%s: %s", manifest.file, warning)
    return manifest


def _look_into(backup: Path) -> _Content:
    faults = source_schema.integrity(backup)
    if faults:
        return _Content(faults)
    with source_schema.snapshot(backup) as connection:
        return _Content(
            faults,
            source_schema.schema_fingerprint(connection),
            source_schema.counts(connection, source_schema.tables(connection)),
            source_schema.sqlite_sequence(connection),
        )


def _finish(partials: list[Path]) -> None:
    """Move whole copies to their names and publish the manifest; remove what is not whole. Runs twice, and half-done."""
    try:
        manifest: Manifest | None = load(partials[0] / _INTENT)
    except CannotCheck:
        manifest = None
    if manifest is not None:
        for path, partial in zip(manifest.copies, partials, strict=False):
            if not path.exists() and (partial / _WHOLE).exists():
                (partial / _WHOLE).rename(path)
                sync_folder(path.parent)
        if all(path.exists() for path in manifest.copies):
            # The manifest beside the first copy makes the backup count: it gets its name last.
            for path, partial in reversed(list(zip(manifest.copies, partials, strict=False))):
                if (partial / _INTENT).exists():
                    (partial / _INTENT).rename(manifest_of(path))
                    sync_folder(path.parent)
    for partial in partials:
        if partial.exists():
            shutil.rmtree(partial)


def _of_run(directory: Path, database: Path, run_id: str, plan: str) -> Manifest | None:
    """The run's backup with every copy whole; None where there is none, or none of its copies is whole."""
    for path in sorted(directory.iterdir(), reverse=True):
        if not (path.name.startswith(f"{database.name}.") and path.name.endswith(f".bak{_MANIFEST}")):
            continue
        try:
            manifest = load(path)
        except CannotCheck as error:
            log.warning("left alone: %s", error)
            continue
        if (manifest.run_id, manifest.plan, manifest.source) == (run_id, plan, database) and _mend(manifest):
            return manifest
    return None


def _mend(manifest: Manifest) -> bool:
    """Make copies that are missing or damaged anew from one that is whole. False, and out of the way, when none is."""
    whole = [path for path in manifest.copies if _has_hash(path, manifest.sha256)]
    for path in manifest.copies:
        if path in whole:
            continue
        log.error("the copy %s of the backup is missing or damaged", path)
        with files.disk_errors(path):
            files.make_private(path.parent)
            if path.exists():
                path.rename(_unused(path.with_name(f"{path.name}.damaged")))
            if whole:
                files.require_space({path.parent: manifest.bytes})
                anew = path.with_name(f".{path.name}.anew")
                files.copy_verified(whole[0], anew)
                anew.rename(path)
            else:
                there = manifest_of(path)
                if there.exists():
                    there.rename(_unused(there.with_name(f"{there.name}.damaged")))
            sync_folder(path.parent)
    if whole and len(whole) < len(manifest.copies):
        for path in manifest.copies:
            write_atomically(manifest_of(path), manifest.to_json().encode(), 0o600)
    return bool(whole)


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return files.digest(path) == sha256
    except CannotCheck:
        return False


def _free_names(places: list[Path], database: str, run_id: str) -> list[Path]:
    """A name for the backup that nobody has in any of the places; what lies there is never overwritten."""
    stem = f"{database}.{datetime.now(UTC):%Y%m%d-%H%M}"
    names = chain([stem, f"{stem}-{slug(run_id)}"], (f"{stem}-{slug(run_id)}-{number}" for number in count(2)))
    for name in names:
        copies = [place.resolve() / f"{name}.bak" for place in places]
        if not any(os.path.lexists(path) or manifest_of(path).exists() for path in copies):
            return copies
    raise AssertionError("count() has no end")


def _unused(path: Path) -> Path:
    return next(item for item in chain([path], (path.with_name(f"{path.name}-{n}") for n in count(2))) if not item.exists())


def manifest_of(backup: Path) -> Path:
    """Where the manifest of a backup's file lies."""
    return backup.with_name(f"{backup.name}{_MANIFEST}")


def _stat(database: Path) -> os.stat_result:
    try:
        return database.stat()
    except OSError as error:
        raise CannotCheck("the database cannot be read", where=str(database), found=error.strerror or "") from None


def _digest_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
