# ruff: noqa: S608  every identifier is quoted, every value is bound
"""The clone in which decisions are carried out, with its record and scratch tables, while it is being made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from include.cutover.decisions import decided_snapshot, value_sql
from include.cutover.decisions.decided_snapshot import beside
from include.cutover.decisions.foreign_keys import column_types
from include.cutover.errors import CutoverError, Refused, StepFailed, WrongData
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.source.schema import TableShape, quote
from include.cutover.target.schema import PlannedSchema

_KEYS_NAMED = 3


class Workspace:
    """A connection from ``opened``, with plan and schema.

    Attributes:
        connection: The clone as ``main``, the record, the scratch database ``work`` and the backup as ``original``.
        types: Table → column → stored type in the target.
        numbers: Table → its number in the record.
    """

    def __init__(self, connection: apsw.Connection, plan: Plan, planned: PlannedSchema) -> None:
        self.connection = connection
        self.plan = plan
        self.planned = planned
        self.types = column_types(planned)
        self.numbers = {table: number for number, table in enumerate(sorted(plan.tables))}
        self._encoding = decided_snapshot.text_encoding(connection)
        self._shapes: dict[str, TableShape] = {}
        connection.executemany("INSERT INTO record.tables VALUES (?, ?)", [(t, name) for name, t in self.numbers.items()])

    def shape(self, table: str) -> TableShape:
        """Return the shape of a table; read once."""
        if table not in self._shapes:
            self._shapes[table] = source_schema.shape(self.connection, table)
        return self._shapes[table]

    def run(self, query: str, bindings: Mapping[str, Any] | Sequence[Any] = ()) -> None:
        """Run a statement to its end."""
        self.connection.execute(query, bindings).fetchall()

    def value(self, query: str, bindings: Sequence[Any] = ()) -> Any:
        """Return the single value of a query."""
        return self.connection.execute(query, bindings).get

    def examples(self, shape: TableShape, places: str) -> str:
        """Return the keys of the first rows at these places."""
        names = ", ".join(decided_snapshot.key_columns(shape, "original"))
        rows = self.connection.execute(
            f"SELECT {names} FROM {beside(shape, places, 'original')} ORDER BY x.place LIMIT {_KEYS_NAMED}"
        )
        secret = self.plan.tables[shape.table].secret
        return "; ".join(decided_snapshot.row_name(shape, row, secret, self._encoding) for row in rows)


def rows_of(shape: TableShape) -> str:
    """Return a FROM clause for the table as ``r``, read by its rows: an index may lack some."""
    return f"main.{quote(shape.table)} AS r{' NOT INDEXED' if shape.rowid else ''}"


def clone(snapshot: Path, to: Path) -> None:
    """Copy the backup's pages in one step; bytes 18 and 19 of the header are set to say that there is no log."""
    os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with snapshots.snapshot(snapshot) as reading:
        writing = apsw.Connection(str(to), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _unsafe_but_fast(writing, "main")
            with writing.backup("main", reading, "main") as backup:
                backup.step(-1)
        finally:
            writing.close()
    descriptor = os.open(to, os.O_RDWR)
    try:
        os.pwrite(descriptor, b"\1\1", 18)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(clone: Path, record: Path, work: Path, snapshot: Path) -> Iterator[apsw.Connection]:
    """Open the clone as ``main``, the new record, a scratch database ``work`` and the backup as ``original``.

    Args:
        clone: Of the backup.
        record: File to make.
        work: File to make.
        snapshot: The backup.
    """
    connection = apsw.Connection(
        str(clone), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    )
    try:
        # The application's triggers and rules must not run here.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
        connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        _unsafe_but_fast(connection, "main")
        for path, name in ((record, "record"), (work, "work")):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            connection.execute(f"ATTACH ? AS {name}", (str(path),))
            _unsafe_but_fast(connection, name)
        decided_snapshot.attach(connection, snapshot, "original")
        connection.execute(decided_snapshot.RECORD_TABLES)
        connection.execute(
            "CREATE TABLE work.change (place PRIMARY KEY, new) WITHOUT ROWID;"
            "CREATE TABLE work.hit (place PRIMARY KEY) WITHOUT ROWID"
        )
        value_sql.register(connection)
        yield connection
    except apsw.Error as error:
        raise _explained(error, clone) from None
    finally:
        connection.close(True)


def _explained(error: apsw.Error, clone: Path) -> CutoverError:
    if isinstance(error, apsw.ConstraintError):
        return WrongData(
            "a decision would break a constraint of the source",
            where=str(error).rpartition(": ")[2],
            expected="rows that stay distinct, and values where the source declares NOT NULL",
            do="Correct these rows in the source. Nothing was changed.",
        )
    if isinstance(error, apsw.SQLError) and any(words in str(error) for words in ("no such collation", "unknown function")):
        return Refused(
            "rows cannot be changed, as the source's schema calls a function or collation that only the application has",
            where=str(clone),
            found=str(error),
            do="Correct the rows in the source, or drop the index, check or computed column there. Nothing was changed.",
        )
    if isinstance(error, apsw.FullError | apsw.IOError):
        return StepFailed(
            "the decided snapshot cannot be written",
            where=str(clone.parent),
            found=str(error),
            do="Free disk space, then run the step again.",
        )
    return snapshots.explain(error, str(clone))


def _unsafe_but_fast(connection: apsw.Connection, schema: str) -> None:
    """Write without a journal and without waiting for the disk: an unfinished file is removed, a finished one is synced."""
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
        connection.execute(f"PRAGMA {schema}.{pragma}").fetchall()


def summary(connection: apsw.Connection) -> tuple[dict[str, dict[str, int]], dict[str, int], dict[str, int]]:
    """Count what the record holds, as ``Decided`` has it: touched, quarantined, foreign keys."""
    touched: dict[str, dict[str, int]] = {}
    for table, decision, count in connection.execute(
        "SELECT name, decision, count(*) FROM record.touched JOIN record.tables USING (t) GROUP BY t, decision ORDER BY 1, 2"
    ):
        touched.setdefault(table, {})[decision] = count
    quarantined = dict(
        connection.execute("SELECT name, count(*) FROM record.removed JOIN record.tables USING (t) GROUP BY t ORDER BY 1")
    )
    keys = dict(
        connection.execute(
            "SELECT name || '.' || foreign_key, count(DISTINCT place) FROM"
            " (SELECT t, foreign_key, place FROM record.removed UNION ALL"
            "  SELECT t, foreign_key, place FROM record.touched WHERE foreign_key IS NOT NULL)"
            " JOIN record.tables USING (t) GROUP BY t, foreign_key ORDER BY 1"
        )
    )
    return touched, quarantined, keys
