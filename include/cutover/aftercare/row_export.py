"""The files that hold the rows written after go-live: one per table, complete or absent, readable by their owner only."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote as percent_encoded

import apsw
import psycopg
from psycopg import errors

from include.cutover import files
from include.cutover.aftercare.row_changes import TableComparison, TimeLimit
from include.cutover.errors import CutoverError
from include.cutover.files import sync_folder, write_atomically
from include.cutover.target import session as target_session

_README = """\
Rows that were written to PostgreSQL after go-live and are not in SQLite after the rollback.

One file per table, one JSON object per line:
  operation  insert, update or delete; null where an insert cannot be distinguished from an update
  key        the primary key; null where the table has none. Of a deleted row, as SQLite has it
  row        the whole row as PostgreSQL shows it in JSON; not there for deleted rows, which SQLite holds

The files hold whole rows, secret columns included: keep them as private as the database. In PostgreSQL,
jsonb_populate_record(NULL::a_table, row) makes a row of it again. The SHA-256 of each file is in the events of the run.
"""


@dataclass(frozen=True)
class ExportedFile:
    """A file of the export, by its name in the folder."""

    name: str
    table: str
    sha256: str
    bytes: int
    lines: int


def write_all(
    connection: psycopg.Connection, folder: Path, tables: Iterable[TableComparison], limit: TimeLimit
) -> tuple[tuple[ExportedFile, ...], str]:
    """Write a file for each table.

    Args:
        connection: To the target, in the transaction of the comparison.
        folder: Where the files go; it is made private.
        tables: The comparisons that found changes.
        limit: Time for all of it.

    Returns:
        The files, and the reason why some are missing.
    """
    written: list[ExportedFile] = []
    problem = ""
    try:
        files.make_private(folder)
        with connection.transaction():
            for table in tables:
                with contextlib.closing(table.lines()) as lines:
                    written.append(_write(folder, table.changes.table, lines))
        _finish(folder, written)
    except (apsw.InterruptError, errors.QueryCanceled):
        problem = reason(limit.late())
    except (CutoverError, psycopg.Error, OSError) as error:
        problem = reason(error)
    return tuple(item for item in written if item.lines), problem


def _write(folder: Path, table: str, lines: Iterable[bytes]) -> ExportedFile:
    name = f"{percent_encoded(table, safe='')}.jsonl"
    unfinished = folder / f".{name}.part"
    digest, size, number = hashlib.sha256(), 0, 0
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        for line in lines:
            file.write(line)
            digest.update(line)
            size += len(line)
            number += 1
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / name)
    sync_folder(folder)
    return ExportedFile(name, table, digest.hexdigest(), size, number)


def _finish(folder: Path, written: list[ExportedFile]) -> None:
    """Remove the files of an earlier attempt, and write the README."""
    names = {item.name for item in written}
    for path in [*folder.glob("*.jsonl"), *folder.glob(".*.part")]:
        if path.name not in names:
            path.unlink()
    write_atomically(folder / "README.txt", _README.encode(), 0o600)


def reason(error: Exception) -> str:
    """Return why something failed, without text that may quote rows."""
    if isinstance(error, psycopg.Error):
        return target_session.primary_message(error)
    if isinstance(error, CutoverError):
        more = error.found or error.expected
        return f"{error.message}: {more}" if more else error.message
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
