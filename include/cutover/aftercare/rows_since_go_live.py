"""The rows that were written to the target after go-live, counted and exported, so that nobody loses them unknowingly.

Right before the application is let in, ``mark`` keeps where the target stands: PostgreSQL's own snapshot, taken while nobody
is in the middle of writing. Each row carries the number of the transaction that wrote it (``xmin``). A row was written after
go-live when that transaction is not visible in the marker: inserted when the SQLite file that was copied has no row of its
key, else updated. Deletes are what is missing from the sum, and their keys an anti-join.

``xmin`` holds 32 of a transaction's 64 bits; the others follow, because all rows of the target are younger than the cutover.
Freezing, VACUUM FULL and CLUSTER keep ``xmin``. What to know of the limits:

* A row that was written and is deleted again has left nothing; one that was updated twice counts once; one whose key was
  changed is a delete and an insert. Rows that the smoke test wrote count too: they were written after go-live.
* Where a table has no key, or its rows came from the plan's reference data, an insert cannot be told from an update, and
  deletes are a lower bound.
* An ALTER TABLE that rewrites a table, or restoring it from a dump, makes every row look written: too many are counted and
  exported, never too few.
* After two thousand million transactions, or on another server, nothing is said: the answer is unknown.
* A transaction of somebody else that was open at go-live, had used a savepoint before and wrote to these tables afterwards
  inside it, is missed. The application was shut out then, so it is not the application's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent_encoded

import apsw
import psycopg
from psycopg import errors, sql

from include.cutover import files
from include.cutover.decisions import decided_snapshot, quarantine
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import CannotCheck, CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.files import sync_folder, write_atomically
from include.cutover.proof import canonical
from include.cutover.proof.parts import ComparedTable, compared_tables
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target import catalog, ledger
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard

log = logging.getLogger(__name__)

MARKED, WRITTEN = "go_live.marker", "rows.written"
"""Events: where the target stood, and what was found to be written since."""

FOLDER = "kept/rows_after_go_live"
COUNT_SECONDS = 60.0
EXPORT_SECONDS = 180.0

_MOST_TRANSACTIONS = 2**31
_FETCHED = 2_000
_SMALLEST_XID = 3  # smaller ones stand for rows that were always there
_STEPS = 100_000  # of SQLite's machine, between two looks at the clock

_README = """\
Rows that were written to PostgreSQL after go-live and are not in SQLite after the rollback.

One file per table, one JSON object per line:
  operation  insert, update or delete; null where an insert cannot be told from an update
  key        the primary key; null where the table has none. Of a deleted row, as SQLite has it
  row        the whole row as PostgreSQL shows it in JSON; not there for deleted rows, which SQLite holds

The files hold whole rows, secret columns included: keep them as private as the database. In PostgreSQL,
jsonb_populate_record(NULL::a_table, row) makes a row of it again. The SHA-256 of each file is in the events of the run.
"""


# --- the marker ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marker:
    """Where the target stood right before the application was let in.

    Attributes:
        snapshot: PostgreSQL's ``pg_snapshot`` as text.
        at: The server's time.
        server: Its system identifier; empty where the role may not see it.
        rows: Table → rows that it held.
    """

    snapshot: str
    at: str
    server: str
    rows: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For ledger and evidence; ``from_dict`` reads it again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Marker:
        """Read ``as_dict``, whatever stands beside it."""
        return cls(fields["snapshot"], fields["at"], fields["server"], dict(fields["rows"]))

    @property
    def following(self) -> int:
        """The first transaction that had not begun."""
        return int(self.snapshot.split(":")[1])

    @property
    def open(self) -> list[int]:
        """Transactions before that one which had not ended."""
        return [int(number) for number in self.snapshot.split(":")[2].split(",") if number]


def mark(conninfo: str, schema: str, run_id: str, guard: Guard, rows: Mapping[str, int]) -> Marker:
    """Keep where the target stands, in the ledger. To be called before the application is let in; safe to run again.

    Args:
        rows: Table → rows that it holds, as the proof found them.

    Returns:
        The run's marker; of a second call that of the first.

    Raises:
        Unreachable: When somebody is in the middle of writing to these tables, or the server does not answer.
        LeaseLost: From ``guard``.
    """
    with target_session.session(conninfo, schema) as connection, connection.transaction():
        guard(connection)
        target_schema.lock_tables(connection, schema)
        row = connection.execute("SELECT pg_current_snapshot()::text, clock_timestamp()::text").fetchone()
        assert row is not None
        marker = Marker(row[0], row[1], _server(connection), dict(rows))
        return Marker.from_dict(ledger.record_marker(connection, run_id, marker.as_dict()))


def _server(connection: psycopg.Connection) -> str:
    with contextlib.suppress(errors.InsufficientPrivilege), connection.transaction():
        row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        return str(row[0]) if row else ""
    return ""


# --- what was written ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """What was done to a table after go-live, as far as its rows tell.

    Attributes:
        written: Rows that are in the table now and were written since.
        inserted: Those of them whose key was not there before; None where that cannot be told.
        updated: The others; None where that cannot be told.
        deleted: Rows that are gone.
        exact: Whether ``deleted`` is their number; else they are at least that many.
    """

    table: str
    written: int
    inserted: int | None
    updated: int | None
    deleted: int
    exact: bool = True

    @property
    def any(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.written or self.deleted)

    @property
    def figures(self) -> dict[str, Any]:
        """For evidence and reports."""
        return {name: value for name, value in asdict(self).items() if name != "table"} | {"in_words": self.in_words}

    @property
    def in_words(self) -> str:
        """The same for a person, without the table."""
        told = [f"{self.written:,} inserted or updated"] if self.inserted is None else []
        told += [f"{n:,} {kind}" for kind, n in (("inserted", self.inserted), ("updated", self.updated)) if n]
        if self.deleted or not self.exact:
            told.append(f"{'' if self.exact else 'at least '}{self.deleted:,} deleted")
        return ", ".join(told) or "none"

    def __str__(self) -> str:
        return f"{self.table}: {self.in_words}"


@dataclass(frozen=True)
class ExportedFile:
    """A file of the export, by its name in the folder."""

    name: str
    table: str
    sha256: str
    bytes: int
    lines: int


@dataclass(frozen=True)
class Exported:
    """What was found, and the files that hold it; ``problem`` says why there are not all of them."""

    changes: Mapping[str, Changes]
    files: tuple[ExportedFile, ...] = ()
    problem: str = ""


def count(
    conninfo: str, schema: str, marker: Marker, snapshot: Path | None, *, seconds: float = COUNT_SECONDS
) -> dict[str, Changes]:
    """What was done to each table since the marker, in one moment, while the application goes on. Only reads.

    Args:
        snapshot: The SQLite file that was copied; None, or one that cannot be read: inserts are not told from updates.
        seconds: Roughly how long it may take.

    Raises:
        CannotCheck: When it cannot be told, or not in that time.
        Unreachable: When the server does not answer.
    """
    with target_session.session(conninfo, schema) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            return dict(_look(connection, schema, marker, snapshot, seconds).changes)


def export(
    connection: psycopg.Connection,
    schema: str,
    marker: Marker,
    snapshot: Path | None,
    folder: Path,
    *,
    seconds: float = EXPORT_SECONDS,
) -> Exported:
    """Write every row that was written since the marker, and the key of every one that is gone, into one file per table.

    To be called in a transaction in which nobody else can write, such as that of ``target.keep_schema``. Memory stays flat.
    The files appear whole, readable by their owner only; those of an earlier attempt are replaced. Everything is counted
    first: when a file cannot be written, or not in that time, that is a problem of the result, which has the numbers.

    Raises:
        CannotCheck: When not even the numbers can be told. The transaction can be used further.
    """
    with connection.transaction():
        found = _look(connection, schema, marker, snapshot, seconds, folder)
        # Of the savepoint that succeeds, the setting would stay.
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [target_session.STATEMENT_TIMEOUT])
    return found


class _Clock:
    """How much time is left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def over(self) -> bool:
        return time.monotonic() > self._end

    def check(self) -> None:
        if self.over():
            raise self.late()

    def late(self) -> CannotCheck:
        return CannotCheck(
            "looking through the rows written after go-live took too long", expected=f"at most {self._seconds:g} s"
        )


def _look(
    connection: psycopg.Connection,
    schema: str,
    marker: Marker,
    snapshot: Path | None,
    seconds: float,
    folder: Path | None = None,
) -> Exported:
    clock = _Clock(seconds)
    with contextlib.ExitStack() as stack:
        try:
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(1, round(seconds * 1000))}ms"])
            _require_same_server(connection, marker)
            present = catalog.tables(connection, schema)
            reading = _open(stack, snapshot, clock)
            shapes = compared_tables(reading, connection, schema, present) if reading is not None else {}
            gone = {table: Changes(table, 0, 0, 0, rows) for table, rows in marker.rows.items() if table not in present}
            looks = [
                _Looking(number, connection, schema, shapes.get(table, ComparedTable(table)), marker, reading, clock)
                for number, table in enumerate(present)
            ]
            changes = {**gone, **{look.changes.table: look.changes for look in looks}}
        except (apsw.InterruptError, errors.QueryCanceled):
            raise clock.late() from None
        if folder is None:
            return Exported(changes)
        return Exported(changes, *_write_all(connection, folder, [look for look in looks if look.changes.any], clock))


def _require_same_server(connection: psycopg.Connection, marker: Marker) -> None:
    row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
    passed = (int(row[0]) if row else 0) - marker.following
    server = _server(connection)
    problem = ""
    if marker.server and server and marker.server != server:
        problem = "the database is on another server than at go-live"
    elif passed < 0:
        problem = "the server was set back to a time before go-live"
    elif passed >= _MOST_TRANSACTIONS:
        problem = f"{passed:,} transactions have passed since go-live, too many to tell them apart"
    if problem:
        raise CannotCheck(
            "the rows written after go-live cannot be told", found=problem, do="Compare the kept schema with the backup."
        )


def _open(stack: contextlib.ExitStack, snapshot: Path | None, clock: _Clock) -> apsw.Connection | None:
    """The snapshot that was copied, with room of its own for keys; None where it cannot be read."""
    if snapshot is None:
        return None
    try:
        reading = stack.enter_context(contextlib.closing(snapshots.open_snapshot(snapshot)))
    except CannotCheck as error:
        log.warning("inserts cannot be told from updates: %s", error)
        return None
    canonical.prepare(reading)
    reading.execute("PRAGMA temp_store = FILE")
    reading.set_progress_handler(clock.over, _STEPS)
    return reading


class _Looking:
    """A look at one table.

    Attributes:
        changes: What was found.
    """

    def __init__(
        self,
        number: int,
        connection: psycopg.Connection,
        schema: str,
        shape: ComparedTable,
        marker: Marker,
        reading: apsw.Connection | None,
        clock: _Clock,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._shape = shape
        self._clock = clock
        self._before = marker.rows.get(shape.table, 0)
        self._reading = reading if shape.key and reading is not None and self._copied(reading) else None
        self._names = {
            "table": sql.Identifier(schema, shape.table),
            "written": _written(marker),
            "key": canonical.in_target(shape.key) if shape.key else sql.SQL("''::text"),
        }
        self._known_keys = f"temp.known_{number}"
        self.changes = self._look()

    def _copied(self, reading: apsw.Connection) -> bool:
        """Whether the table's rows came from the snapshot; else they are the plan's reference data."""
        return bool(reading.execute(f"SELECT EXISTS (SELECT 1 FROM {self._in_source})").get)  # noqa: S608

    @property
    def _in_source(self) -> str:
        return f"main.{source_schema.quote(self._shape.table)}"

    @property
    def _source_key(self) -> str:
        return canonical.as_bytes(canonical.in_source(self._shape.key), self._shape.encoding)

    def _look(self) -> Changes:
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
        """How many of the written rows have a key that the snapshot has; these keys are kept."""
        query = sql.SQL("SELECT convert_to({key}, 'UTF8') FROM {table} AS whole WHERE {written}").format(**self._names)
        _fill(reading, "written", self._stream(query))
        reading.execute(f"CREATE TABLE {self._known_keys} (k BLOB PRIMARY KEY) WITHOUT ROWID")
        # The order of the join is fixed: one scan of the snapshot, in which few keys are looked for.
        reading.execute(
            f"INSERT OR IGNORE INTO {self._known_keys} SELECT w.k"  # noqa: S608 - quoted identifiers
            f" FROM (SELECT {self._source_key} AS k FROM {self._in_source}) AS s CROSS JOIN temp.written AS w ON w.k = s.k"
        )
        known = f"SELECT coalesce(sum(times), 0) FROM temp.written JOIN {self._known_keys} USING (k)"  # noqa: S608
        return int(reading.execute(known).get)

    def lines(self) -> Generator[bytes]:
        """The lines of the export, the written rows first."""
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
            self._clock.check()
            values = zip(names, found[::2], found[1::2], strict=True)
            key = {name: quarantine.as_json(kind, value, self._shape.encoding) for name, kind, value in values}
            yield json.dumps({"operation": "delete", "key": key}, ensure_ascii=False).encode() + b"\n"

    def _stream(self, query: sql.Composed) -> Iterator[tuple[bytes, ...]]:
        with self._connection.cursor(name="cutover_after_go_live") as cursor:
            cursor.execute(query, binary=True)
            number = 10
            while rows := cursor.fetchmany(number):
                self._clock.check()
                yield from rows
                width = sum(len(cell) for row in rows for cell in row) // len(rows)
                number = max(1, min(_FETCHED, (4 << 20) // max(1, width)))


def _written(marker: Marker) -> sql.Composed:
    """SQL that says of a row of ``whole`` whether it was written after the marker; see the module's docstring.

    A transaction's number is that of the next one, less the distance between their lower 32 bits.
    """
    following = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"
    number = f"({following} - (({following} - whole.xmin::text::bigint) & 4294967295))"
    return sql.SQL(
        f"(whole.xmin::text::bigint >= {_SMALLEST_XID} AND ({number} >= {{after}} OR {number} = ANY({{open}}::bigint[])))"
    ).format(after=sql.Literal(marker.following), open=sql.Literal(marker.open))


def _fill(reading: apsw.Connection, table: str, keys: Iterable[tuple[bytes, ...]]) -> None:
    """A temporary table of keys, with how often each occurs."""
    reading.execute(f"DROP TABLE IF EXISTS temp.{table}")
    reading.execute(f"CREATE TEMP TABLE {table} (k BLOB PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID")
    with reading:
        reading.executemany(f"INSERT INTO temp.{table} (k) VALUES (?) ON CONFLICT DO UPDATE SET times = times + 1", keys)  # noqa: S608


# --- files --------------------------------------------------------------------------------------------------------------


def _write_all(
    connection: psycopg.Connection, folder: Path, looks: Iterable[_Looking], clock: _Clock
) -> tuple[tuple[ExportedFile, ...], str]:
    """Write what was found, and return the files, and why there are not all of them."""
    written: list[ExportedFile] = []
    problem = ""
    try:
        files.make_private(folder)
        with connection.transaction():
            for look in looks:
                with contextlib.closing(look.lines()) as lines:
                    written.append(_write(folder, look.changes.table, lines))
        _finish(folder, written)
    except (apsw.InterruptError, errors.QueryCanceled):
        problem = _reason(clock.late())
    except (CutoverError, psycopg.Error, OSError) as error:
        problem = _reason(error)
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
    """Take away what an earlier attempt left, and say what the files are."""
    names = {item.name for item in written}
    for path in [*folder.glob("*.jsonl"), *folder.glob(".*.part")]:
        if path.name not in names:
            path.unlink()
    write_atomically(folder / "README.txt", _README.encode(), 0o600)


# --- in the evidence ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What is known about the rows written after go-live, for a step's report.

    Attributes:
        summary: One clause; empty where the application was never let in.
        tables: Table → figures of ``Changes``, of tables with any; None where it is unknown.
    """

    summary: str
    tables: Mapping[str, Mapping[str, Any]] | None = field(default_factory=dict)

    @property
    def figures(self) -> Mapping[str, Mapping[str, Any]] | str:
        """For the figures of a step."""
        return "unknown" if self.tables is None else self.tables


def record_count(evidence: Evidence, schema: str, conninfo: Callable[[], str]) -> Told:
    """Count for the run of ``evidence`` and record the result there. Never raises: what cannot be told is ``unknown``."""
    return _recorded(
        evidence, lambda marker, snapshot: Exported(count(conninfo(), schema, marker, snapshot)), exporting=False
    )


def record_export(evidence: Evidence, schema: str, connection: psycopg.Connection) -> Told:
    """Export for the run of ``evidence``, into its folder, and record files and numbers. Never raises for being unable.

    To be called where ``export`` is.
    """
    folder = evidence.folder / FOLDER
    return _recorded(evidence, lambda marker, snapshot: export(connection, schema, marker, snapshot, folder), exporting=True)


def record_unknown(evidence: Evidence, reason: str) -> Told:
    """Record that nobody can tell, where the application had been let in."""
    if not _let_in(evidence):
        return Told("")
    evidence.append(WRITTEN, unknown=reason, tables=None, files=[])
    return newest(evidence)


def newest(evidence: Evidence, since: int = 0) -> Told:
    """What was recorded last, by an event numbered ``since`` or later; nothing where there is no such record."""
    event = evidence.last(WRITTEN)
    if event is None or event["seq"] < since:
        return Told("")
    if event["tables"] is None:
        return Told(f"the rows written after go-live are unknown: {event['unknown']}", None)
    told = "; ".join(f"{table}: {figures['in_words']}" for table, figures in event["tables"].items())
    summary = f"written after go-live: {told or 'nothing'}"
    if event["problem"]:
        summary += f"; NOT exported: {event['problem']}"
    elif event["files"]:
        summary += f"; exported to {event['folder']}"
    return Told(summary, event["tables"])


def _let_in(evidence: Evidence) -> bool:
    return evidence.last(MARKED) is not None or evidence.last("services.started", on="target") is not None


def _recorded(evidence: Evidence, look: Callable[[Marker, Path | None], Exported], *, exporting: bool) -> Told:
    marked, decided = evidence.last(MARKED), evidence.last("snapshot")
    if marked is None:
        return record_unknown(evidence, "no marker was taken at go-live")
    try:
        snapshot = Decided.from_dict(decided["decided"]).file if decided else None
        found = look(Marker.from_dict(marked), snapshot)
    except Exception as error:  # whatever it is, going back does not wait for it
        expected = isinstance(error, CutoverError | psycopg.Error)  # and the text of the latter may quote rows
        log.warning("the rows written after go-live could not be told", exc_info=not expected)
        return record_unknown(evidence, _reason(error))
    tables = {table: item.figures for table, item in found.changes.items() if item.any}
    for item in found.files:
        evidence.append("file", name=f"{FOLDER}/{item.name}", sha256=item.sha256, bytes=item.bytes)
    evidence.append(
        WRITTEN,
        unknown="",
        tables=tables,
        files=[asdict(item) for item in found.files],
        folder=FOLDER if exporting else "",
        problem=found.problem,
    )
    return newest(evidence)


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return target_session.primary_message(error)
    if isinstance(error, CutoverError):
        more = error.found or error.expected
        return f"{error.message}: {more}" if more else error.message
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
