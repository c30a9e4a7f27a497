"""The restore test: the backup opened elsewhere, as a restore would, and compared with the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

from include.cutover import files
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.source import fence, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.source.backup_manifest import Manifest

_MARGIN = 1 << 20  # bytes, for folder entries

Digests = Callable[[Path], Mapping[str, str]]


def restore_test(manifest: Manifest, scratch: Path, *, digests: Digests | None = None) -> list[Check]:
    """Restore the backup into a scratch folder and compare it with the source.

    The second copy is used where there is one, and the hash of the first is checked beside it: the tables are copied from
    the first, but a fault in an index or in free space reaches no table. The content is compared with the fenced source
    itself; without the run's fence, with the backup's first file. Safe to run again; leaves nothing behind.

    Args:
        manifest: The backup's.
        scratch: Folder with room for the backup.
        digests: Gives table → digest of a file's content; called for the source and for the restored copy. With
            ``content.source_digests`` the proof of the target can use those of the source again. ``content_digests`` when
            left out.

    Returns:
        Hash of each copy, integrity, rows per table, and the content of every table, by default as a SHA3-256 over all
        columns in the key's order.

    Raises:
        Refused: When the scratch place has not enough room.
        CannotCheck: When a copy cannot be read or a table cannot be hashed.
        StepFailed: When the scratch place cannot be written.
    """
    tested = manifest.copies[-1]
    files.make_private(scratch)
    files.require_space({scratch: manifest.bytes + _MARGIN})
    restored = scratch / f"{manifest.file.name}.restored"
    try:
        with ThreadPoolExecutor(1) as pool:
            awaited = [(path, pool.submit(files.digest, path)) for path in manifest.copies[:-1]]
            digest = files.copy(tested, restored)
            same = digest == manifest.sha256
            checks = [_check(tested, "hash", "The copy is the backup", same, manifest.sha256, digest)]
            if same:
                checks += _compare(_Restored(manifest, tested, restored), digests or content_digests)
            for path, other in awaited:
                unchanged = other.result() == manifest.sha256
                checks.append(
                    _check(path, "first_hash", "The first copy is unchanged", unchanged, manifest.sha256, other.result())
                )
        return checks
    finally:
        restored.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Restored:
    """A copy of the backup that was restored: ``tested`` is the copy, ``file`` the restored one."""

    manifest: Manifest
    tested: Path
    file: Path


def _compare(restored: _Restored, digests: Digests) -> list[Check]:
    """Check integrity, rows and content of the restored file; both files are read at once."""
    manifest, tested = restored.manifest, restored.tested
    reference = _reference(manifest)
    with ThreadPoolExecutor(2) as pool:
        awaited = pool.submit(digests, reference)
        faults = snapshots.integrity(restored.file)
        found = digests(restored.file) if not faults else {}
        expected = awaited.result()
    checks = [_check(tested, "integrity", "The copy is sound", not faults, "ok", "; ".join(faults[:5]) or "ok")]
    if faults:
        return checks
    with snapshots.snapshot(restored.file) as connection:
        rows = source_schema.counts(connection, source_schema.tables(connection))
    wrong = _differences(manifest.counts, rows)
    promised = f"{sum(manifest.counts.values()):,} rows"
    checks.append(_check(tested, "counts", "The copy has every row", not wrong, promised, wrong or "the same"))
    wrong = _differences(expected, found)
    title = f"Every table of the copy equals that of {reference.name}"
    checks.append(_check(tested, "content", title, not wrong, f"{len(expected)} equal digests", wrong or "the same"))
    return checks


def _check(tested: Path, name: str, title: str, passed: bool, expected: str, found: str) -> Check:
    do = "" if passed else "Do not rely on this backup: lift the fence or take another one."
    return Check(f"restore_test_{name}", title, "passed" if passed else "failed", expected, found, do, str(tested))


def content_digests(snapshot: Path) -> dict[str, str]:
    """Return table → SHA3-256, in hex, of all its values with their storage classes, in the order of its key.

    SQLite itself streams the rows through the hash; memory stays flat.

    Raises:
        CannotCheck: When the file cannot be read, or a table cannot be queried.
    """
    with snapshots.snapshot(snapshot) as connection:
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
    """Return the source while the fence of this run is intact, as nothing writes to it; else the first copy."""
    try:
        state = fence.status(manifest.source, content=False)
    except CannotCheck:
        return manifest.file
    return manifest.source if state.intact and state.run_id == manifest.run_id else manifest.file


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return the tables that differ, with what was expected and found; empty when none differs."""
    wrong = sorted(table for table in expected.keys() | found.keys() if expected.get(table) != found.get(table))
    shown = [
        f"{table}: {expected.get(table, 'nothing')!s:.16} became {found.get(table, 'nothing')!s:.16}" for table in wrong[:10]
    ]
    return "; ".join(shown) + (f" and {len(wrong) - 10} more tables" if len(wrong) > 10 else "")
