"""Decides what a way back may do with the file that it finds in the place of the database.

The evidence knows what the run did, not what others did since: after a power cut, services start by themselves. So the file
itself decides. One that is as the run left it, or holds nothing beyond the backup, may be replaced. Any other one is the
application's newest state, and only a person who has seen the number of its rows may give it up.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import apsw

from include.cutover import files, rights
from include.cutover.errors import CannotCheck
from include.cutover.source import fence, fence_header, newer_rows, schema, super_journal
from include.cutover.source.backup_manifest import Manifest
from include.cutover.source.database_file import HEADER_BYTES, log_has_content
from include.cutover.source.newer_rows import Differences
from include.cutover.source.snapshots import uri

log = logging.getLogger(__name__)

State = Literal["missing", "fenced", "equal", "newer", "other", "damaged"]
"""The state of the file in the database's place.

- ``missing``: There is no file.
- ``fenced``: The source as this run fenced it.
- ``equal``: It holds the rows of the backup, and no others.
- ``newer``: The application, or somebody else, went on with it.
- ``other``: Another database, such as an empty one that an application made where the file was missing.
- ``damaged``: SQLite cannot read it, or finds faults in it.
"""


@dataclass(frozen=True)
class Found:
    """The file that a way back found in the place of the database.

    Attributes:
        differences: From the backup; empty where none were searched for.
        faults: Of a damaged one.
        bytes: Its size.
    """

    state: State
    differences: Differences = field(default_factory=Differences)
    faults: str = ""
    bytes: int = 0

    @property
    def replaceable(self) -> bool:
        """True when the backup may replace it without asking: no row is lost."""
        if self.state in ("other", "damaged"):
            return self.differences.nothing_beyond
        return self.state != "newer"

    @property
    def holds(self) -> str:
        """The content, in words that follow the file's name."""
        words = {
            "missing": "no database was there",
            "fenced": "the source as it was fenced; the backup holds its rows",
            "equal": "the rows of the backup, and no others",
        }
        if self.state in words:
            return words[self.state]
        if self.state == "damaged":
            rows = "" if self.differences.nothing_beyond else f"; {self.differences.words}"
            return f"damaged: {self.faults}{rows}"
        what = "the backup with what was written since" if self.state == "newer" else "another database than the backup"
        return f"{what}: {self.differences.words}"

    def as_dict(self) -> dict[str, object]:
        """Return it for the evidence."""
        return {
            "state": self.state,
            "holds": self.holds,
            "rows": self.differences.as_dict(),
            "beyond": self.differences.beyond,
            "bytes": self.bytes,
        }


def examine(place: Path, manifest: Manifest, backup: Path | None, changes: int = 0) -> Found:
    """Examine the file in the database's place. It is not changed; nobody may have it open.

    Args:
        place: The database, symbolic links followed.
        manifest: Of the backup; its run is the one whose fence counts.
        backup: A verified copy of the backup; None where none is intact. Then rows are only counted.
        changes: The change counter of the source before it was fenced. A database with a smaller one was made anew.

    Raises:
        CutoverError: When a copy for the examination cannot be made.
    """
    if not place.exists():
        return Found("missing")
    try:
        size = place.stat().st_size
        if is_as_fenced(place, manifest):
            return Found("fenced", bytes=size)
        if size == 0 and not _logs(place):
            return Found("equal" if not manifest.counts else "damaged", faults="an empty file")
        if backup is not None and not _logs(place) and _same_pages(place, backup):
            return Found("equal", bytes=size)
    except OSError as error:
        raise CannotCheck(
            "the file in the place of the database cannot be read",
            where=str(place),
            found=rights.reason(error),
            do="Let the tasks' user read it; where it is a folder, move it away. Then run the step again.",
        ) from None
    return _read(place, manifest, backup, size, changes)


def is_as_fenced(place: Path, manifest: Manifest) -> bool:
    """Report whether the file is, by its hash, the source as the run of the backup fenced it: equal to the backup."""
    with suppress(CannotCheck):
        state = fence.status(place)
        # The fence may have been lifted and raised again since the backup.
        same = manifest.fenced and manifest.fenced_sha256 in (None, state.sha256)
        return same and state.raised and state.intact and state.run_id == manifest.run_id
    return False


def _logs(place: Path) -> list[Path]:
    """List the logs beside the database whose content belongs to it."""
    found = [path for path in files.side_files(place) if not path.name.endswith("-shm")]
    return [path for path in found if log_has_content(path)]


def _same_pages(place: Path, backup: Path) -> bool:
    """Compare all bytes but those of the header that change without a change of the content."""
    with place.open("rb") as one, backup.open("rb") as other:
        headers = [fence_header.without_counters(file.read(HEADER_BYTES)) for file in (one, other)]
        if headers[0] != headers[1]:
            return False
        while True:
            block, expected = one.read(files.BLOCK), other.read(files.BLOCK)
            if block != expected:
                return False
            if not block:
                return True


def _read(place: Path, manifest: Manifest, backup: Path | None, size: int, changes: int) -> Found:
    """Read a copy, in which SQLite first completes what the logs beside it say, as the application's next start would."""
    folder = clear(place)
    if unknown := super_journal.problem(place):
        return Found("damaged", Differences(unread=("the file",)), unknown, size)
    files.require_space({place.parent: size + sum(path.stat().st_size for path in _logs(place))})
    with files.disk_errors(folder):
        folder.mkdir(mode=0o700)
    try:
        copy = folder / "copy.db"
        for path, to in (
            (place, copy),
            *((log, folder / (copy.name + log.name.removeprefix(place.name))) for log in _logs(place)),
        ):
            files.copy(path, to)
        return _read_copy(copy, manifest, backup, size, changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear(place: Path) -> Path:
    """Remove the copy that a killed examination left beside the database, and return its folder."""
    folder = place.with_name(f".{place.name}.examined")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _read_copy(copy: Path, manifest: Manifest, backup: Path | None, size: int, changes: int) -> Found:
    try:
        counter = fence_header.change_counter(copy)
        if fence_header.read(copy)[fence_header.WRITE_VERSION] == fence_header.FENCED:
            descriptor = os.open(copy, os.O_RDWR)
            try:
                fence_header.set_write_version(descriptor, fence_header.ROLLBACK[0])
            finally:
                os.close(descriptor)
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        with closing(apsw.Connection(uri(copy), flags=flags)) as database:
            faults = _faults(database)
            found = newer_rows.compare(database, backup) if backup is not None else _counted(database, manifest.counts)
    except (CannotCheck, apsw.Error, UnicodeError) as error:
        reason = error.message if isinstance(error, CannotCheck) else str(error)
        return Found("damaged", Differences(unread=("the file",)), reason, size)
    if faults:
        return Found("damaged", found, faults, size)
    if found.equal and backup is not None:
        return Found("equal", found, bytes=size)
    # A database that an application made anew has counted few changes, whatever rows it was seeded with.
    return Found("newer" if found.descends and counter >= changes else "other", found, bytes=size)


def _faults(database: apsw.Connection) -> str:
    """Return the faults of the database; empty also where only the application's own functions could check it."""
    try:
        faults = [str(text) for (text,) in database.execute("PRAGMA integrity_check(5)")]
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        return str(error)
    except apsw.Error as error:
        log.warning("the integrity cannot be checked: %s", error)
        return ""
    return "" if faults == ["ok"] else "; ".join(faults)


def _counted(database: apsw.Connection, before: Mapping[str, int]) -> Differences:
    """Compare the numbers of rows with those of the backup's manifest, where no copy of the backup is intact."""
    counts = schema.counts(database, schema.tables(database))
    numbers = {table: counts.get(table, 0) - before.get(table, 0) for table in {*counts, *before}}
    tables = {table: newer_rows.TableRows(max(number, 0), 0, max(-number, 0)) for table, number in numbers.items() if number}
    return Differences(tables, counts, sum(before.values()), ("no copy of the backup is intact, so rows were only counted",))
