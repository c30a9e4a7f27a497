"""Opens SQLite files without a writer: clones and backups.

They are opened with ``immutable=1``: no lock is taken, no side file is made, and no writer waits. All of this uses apsw,
which brings its own SQLite: the one of the operating system is often too old to print a REAL so that it can be read back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote as percent_encoded

import apsw

from include.cutover.errors import CannotCheck, CutoverError, StepFailed, Unreachable
from include.cutover.source.database_file import read_header, refuse_unread_logs, truncation

MINIMUM_SQLITE = (3, 45, 0)
DAMAGED = "the database is damaged"
REPAIR = "Repair it, e.g. with sqlite3's .recover into a new file."


def open_snapshot(path: Path) -> apsw.Connection:
    """Open a clone or a backup, read only and immutable; it may lie on read-only media. The caller closes the connection.

    Raises:
        CannotCheck: When the file is missing, empty, truncated, encrypted, not a database or unreadable, when a log lies
            beside it whose content would be missed, or when apsw's SQLite is too old.
    """
    require_sqlite()
    if truncated := truncation(path, read_header(path)):
        raise truncated
    refuse_unread_logs(path)
    with explained(path):
        connection = apsw.Connection(uri(path, "immutable=1"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018  reads the schema: now, not later
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[apsw.Connection]:
    """Open a snapshot for the length of a block; errors of SQLite inside the block become ``CannotCheck``."""
    connection = open_snapshot(path)
    try:
        with explained(path):
            yield connection
    finally:
        connection.close()


def integrity(path: Path) -> list[str]:
    """Return the faults that SQLite finds in a snapshot or clone, at most 100; an empty list means that it is sound.

    Raises:
        CannotCheck: When the file cannot be opened at all; see ``open_snapshot``.
    """
    connection = open_snapshot(path)
    try:
        found = [str(text) for (text,) in connection.execute("PRAGMA integrity_check(100)")]
    except apsw.CorruptError as error:
        return [str(error)]
    except apsw.Error as error:
        raise explain(error, str(path)) from None
    finally:
        connection.close()
    return [] if found == ["ok"] else found


def require_sqlite() -> None:
    """Refuse an SQLite that is too old to print every number exactly."""
    found = apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < MINIMUM_SQLITE:
        raise CannotCheck(
            "the SQLite inside apsw is too old to print every number exactly",
            expected=f"version {'.'.join(map(str, MINIMUM_SQLITE))} or newer",
            found=f"version {found}",
            do="Install the versions in requirements.txt.",
        )


def uri(path: Path, *parameters: str) -> str:
    """Return the name under which SQLite opens a file with these parameters."""
    return f"file:{percent_encoded(os.fsencode(path.absolute()))}?{'&'.join(parameters)}"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about a file into errors that a person can act on."""
    try:
        yield
    except apsw.Error as error:
        raise explain(error, str(path)) from None


def explain(error: apsw.Error, where: str) -> CutoverError:
    """Translate an error of SQLite about the file ``where``."""
    found = str(error) if str(error) != "not an error" else ""  # SQLite has no text for some faults
    if isinstance(error, apsw.NotADBError):
        return CannotCheck(
            "the file is not an SQLite database, or it is encrypted",
            where=where,
            found=found,
            do="If the application encrypts it, decrypt it with the application's own tool first.",
        )
    if isinstance(error, apsw.CorruptError):
        return CannotCheck(DAMAGED, where=where, found=found, do=REPAIR)
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Unreachable("the database is locked", where=where, found=found, do="Wait for the writer, then retry.")
    if isinstance(error, apsw.FullError):
        return StepFailed("the disk is full", where=where, found=found, do="Free disk space, then run the step again.")
    return CannotCheck("SQLite cannot read the database", where=where, found=found, do="Check the file and its disk.")
