"""The changes of one table since go-live: its rows in the target, compared with the SQLite file that was copied.

How a row's transaction tells when it was written: ``rows_since_go_live``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import apsw
import psycopg
from psycopg import sql

from include.cutover.aftercare.marker import Marker
from include.cutover.decisions import decided_snapshot, quarantine
from include.cutover.errors import CannotCheck
from include.cutover.proof import canonical
from include.cutover.proof.parts import ComparedTable
from include.cutover.source import schema as source_schema
from include.cutover.target import catalog, row_versions

_FETCHED = 2_000


@dataclass(frozen=True)
class Changes:
    """The changes of a table after go-live, as far as its rows show.

    Attributes:
        written: Rows that are in the table now and were written since.
        inserted: Those of them whose key was not there before; None where that is unknown.
        updated: The others; None where that is unknown.
        deleted: Rows that are gone.
        exact: True when ``deleted`` is their number; else they are at least that many.
    """

    table: str
    written: int
    inserted: int | None
    updated: int | None
    deleted: int
    exact: bool = True

    @property
    def any(self) -> bool:
        """True when something changed."""
        return bool(self.written or self.deleted)

    @property
    def figures(self) -> dict[str, Any]:
        """The numbers and ``in_words``, for evidence and reports."""
        return {name: value for name, value in asdict(self).items() if name != "table"} | {"in_words": self.in_words}

    @property
    def in_words(self) -> str:
        """The changes for a person, without the table's name."""
        parts = [f"{self.written:,} inserted or updated"] if self.inserted is None else []
        parts += [f"{n:,} {kind}" for kind, n in (("inserted", self.inserted), ("updated", self.updated)) if n]
        if self.deleted or not self.exact:
            parts.append(f"{'' if self.exact else 'at least '}{self.deleted:,} deleted")
        return ", ".join(parts) or "none"

    def __str__(self) -> str:
        return f"{self.table}: {self.in_words}"


class TimeLimit:
    """A number of seconds, counted from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def over(self) -> bool:
        """Return True when the time is over."""
        return time.monotonic() > self._end

    def check(self) -> None:
        """Raise ``late()`` when the time is over."""
        if self.over():
            raise self.late()

    def late(self) -> CannotCheck:
        """Return the error for the case that the time is over."""
        return CannotCheck("counting the rows written after go-live took too long", expected=f"at most {self._seconds:g} s")


@dataclass(frozen=True)
class Comparison:
    """The two databases that are compared.

    Attributes:
        connection: To the target, in a transaction.
        schema: Schema of the application's tables there.
        marker: The position to compare with.
        copied: The SQLite file that was copied; None where it cannot be read.
        limit: Time for all tables together.
    """

    connection: psycopg.Connection
    schema: str
    marker: Marker
    copied: apsw.Connection | None
    limit: TimeLimit


class TableComparison:
    """The comparison of one table.

    Args:
        comparison: The databases.
        number: One that no other table has.
        shape: The table, its columns and key.

    Attributes:
        changes: The changes found.
    """

    def __init__(self, comparison: Comparison, number: int, shape: ComparedTable) -> None:
        marker, copied = comparison.marker, comparison.copied
        self._connection = comparison.connection
        self._schema = comparison.schema
        self._limit = comparison.limit
        self._shape = shape
        self._before = marker.rows.get(shape.table, 0)
        self._reading = copied if shape.key and copied is not None and self._was_copied(copied) else None
        self._names = {
            "table": sql.Identifier(self._schema, shape.table),
            "written": _written(marker),
            "key": canonical.in_target(shape.key) if shape.key else sql.SQL("''::text"),
        }
        self._known_keys = f"temp.known_{number}"
        self.changes = self._count()

    def _was_copied(self, reading: apsw.Connection) -> bool:
        """Return True when the table's rows came from the SQLite file; else they are the plan's reference data."""
        return bool(reading.execute(f"SELECT EXISTS (SELECT 1 FROM {self._in_source})").get)  # noqa: S608

    @property
    def _in_source(self) -> str:
        return f"main.{source_schema.quote(self._shape.table)}"

    @property
    def _source_key(self) -> str:
        return canonical.as_bytes(canonical.in_source(self._shape.key), self._shape.encoding)

    def _count(self) -> Changes:
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {written}) FROM {table} AS whole").format(**self._names)
        row = self._connection.execute(query).fetchone()
        rows, written = row or (0, 0)
        updated: int | None = None
        if not written or not self._before:
            updated = 0
        elif self._reading is not None:
            updated = self._known(self._reading)
        if updated is None:
            return Changes(self._shape.table, written, None, None, max(0, self._before - rows), exact=False)
        inserted = written - updated
        return Changes(self._shape.table, written, inserted, updated, max(0, self._before + inserted - rows))

    def _known(self, reading: apsw.Connection) -> int:
        """Count the written rows whose key the SQLite file has, and keep these keys."""
        query = sql.SQL("SELECT convert_to({key}, 'UTF8') FROM {table} AS whole WHERE {written}").format(**self._names)
        _fill(reading, "written", self._stream(query))
        reading.execute(f"CREATE TABLE {self._known_keys} (k BLOB PRIMARY KEY) WITHOUT ROWID")
        # The order of the join is fixed: one scan of the file, in which few keys are searched.
        reading.execute(
            f"INSERT OR IGNORE INTO {self._known_keys} SELECT w.k"  # noqa: S608 - quoted identifiers
            f" FROM (SELECT {self._source_key} AS k FROM {self._in_source}) AS s CROSS JOIN temp.written AS w ON w.k = s.k"
        )
        known = f"SELECT coalesce(sum(times), 0) FROM temp.written JOIN {self._known_keys} USING (k)"  # noqa: S608
        return int(reading.execute(known).get)

    def lines(self) -> Generator[bytes]:
        """Yield the lines of the export, the written rows first."""
        if self.changes.written:
            yield from self._written_rows()
        if self.changes.deleted and self.changes.exact and self._reading is not None:
            yield from self._deleted_keys(self._reading)

    def _written_rows(self) -> Iterator[bytes]:
        key = [column.column for column in self._shape.key]
        key = key or catalog.primary_key(self._connection, self._schema, self._shape.table)
        pairs = [sql.SQL("{}, whole.{}").format(sql.Literal(name), sql.Identifier(name)) for name in key]
        order: list[sql.Composable] = [sql.SQL("whole.{}").format(sql.Identifier(name)) for name in key]
        query = sql.SQL(
            "SELECT convert_to({key}, 'UTF8'), convert_to({shown}::text, 'UTF8'),"
            " convert_to(row_to_json(whole.*)::text, 'UTF8') FROM {table} AS whole WHERE {written} ORDER BY {order}"
        ).format(
            shown=sql.SQL("json_build_object({})").format(sql.SQL(", ").join(pairs)) if key else sql.SQL("'null'::json"),
            order=sql.SQL(", ").join(order or [sql.SQL("1")]),
            **self._names,
        )
        for key_text, key_json, row in self._stream(query):
            if self.changes.updated is None:
                operation = b"null"
            elif self.changes.updated and self._is_known(key_text):
                operation = b'"update"'
            else:
                operation = b'"insert"'
            # Of the type json, PostgreSQL keeps the blanks as they came; inside a string there is no line break.
            line = b'{"operation": %s, "key": %s, "row": %s}' % (operation, key_json, row)
            yield line.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"

    def _is_known(self, key: bytes) -> bool:
        assert self._reading is not None
        return self._reading.execute(f"SELECT 1 FROM {self._known_keys} WHERE k = ?", (key,)).get is not None  # noqa: S608

    def _deleted_keys(self, reading: apsw.Connection) -> Iterator[bytes]:
        # In order, so that SQLite only appends to its table.
        query = sql.SQL("SELECT convert_to({key}, 'UTF8') AS k FROM {table} AS whole ORDER BY k").format(**self._names)
        _fill(reading, "present", self._stream(query))
        names = [column.column for column in self._shape.key]
        cells = ", ".join(decided_snapshot.cell(source_schema.quote(name)) for name in names)
        gone = f"SELECT {cells} FROM {self._in_source} WHERE {self._source_key} NOT IN (SELECT k FROM temp.present)"  # noqa: S608
        for found in reading.execute(gone):
            self._limit.check()
            values = zip(names, found[::2], found[1::2], strict=True)
            key = {name: quarantine.as_json(kind, value, self._shape.encoding) for name, kind, value in values}
            yield json.dumps({"operation": "delete", "key": key}, ensure_ascii=False).encode() + b"\n"

    def _stream(self, query: sql.Composed) -> Iterator[tuple[bytes, ...]]:
        with self._connection.cursor(name="cutover_after_go_live") as cursor:
            cursor.execute(query, binary=True)
            number = 10
            while rows := cursor.fetchmany(number):
                self._limit.check()
                yield from rows
                width = sum(len(cell) for row in rows for cell in row) // len(rows)
                number = max(1, min(_FETCHED, (4 << 20) // max(1, width)))


def _written(marker: Marker) -> sql.Composed:
    """Return SQL that is true of a row of ``whole`` when it was written after the marker; see ``rows_since_go_live``."""
    number = row_versions.NUMBER
    return sql.SQL(
        f"(whole.xmin::text::bigint >= {row_versions.SMALLEST_XID}"
        f" AND ({number} >= {{after}} OR {number} = ANY({{open}}::bigint[])))"
    ).format(after=sql.Literal(marker.following), open=sql.Literal(marker.open))


def _fill(reading: apsw.Connection, table: str, keys: Iterable[tuple[bytes, ...]]) -> None:
    """Create a temporary table of keys, with how often each occurs."""
    reading.execute(f"DROP TABLE IF EXISTS temp.{table}")
    reading.execute(f"CREATE TEMP TABLE {table} (k BLOB PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID")
    with reading:
        reading.executemany(f"INSERT INTO temp.{table} (k) VALUES (?) ON CONFLICT DO UPDATE SET times = times + 1", keys)  # noqa: S608
