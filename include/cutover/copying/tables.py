"""Copies tables from a snapshot into the target: exact, fast, and whole chunks only.

A chunk's rows and the record that they are copied commit in one transaction, which first proves that the run still holds
the target. So a chunk is in the target once or not at all, whoever is killed, retried, or wakes up late.

What the copy itself checks: the columns of both ends are the same; every value is of a class and form that its target
column takes unchanged (see ``conversion``); the rows of every range are as many as when the chunks were planned, as many as
were sent, and as many as PostgreSQL says it took; the table held no rows that this run did not bring. Left to the proof that
compares every value of both ends afterwards: that SQLite's text of a real reads back as the same bits, that PostgreSQL
stored what it was sent, and values that an index or constraint refuses later.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from include.cutover.copying.blocks import Block, Row, TableReader, wrong_data
from include.cutover.copying.conversion import TargetColumn, match_columns, target_columns, value_class
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed, Unreachable, WrongData
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target import checkpoints, ledger
from include.cutover.target import session as target_session
from include.cutover.target.checkpoints import Chunk

log = logging.getLogger(__name__)

CHUNK_ROWS = 500_000
STALL_SECONDS = 120.0

_COPY = sql.SQL("COPY {}.{} ({}) FROM STDIN (FORMAT text, DELIMITER E'\\x1f', NULL E'\\x1d', ENCODING 'UTF8')")
_ROWS_TRIED_AT_ONCE = 500
_REFUSED_BY_POSTGRESQL = (errors.DataError, errors.IntegrityError)


@dataclass(frozen=True)
class Progress:
    """How far one stream of a table is.

    Attributes:
        rows: Rows in the target, of this stream's chunks; those of the open transaction count.
        total: Rows of all of this stream's chunks.
        rate: Rows per second since this call began; 0.0 at its begin.
        eta_seconds: Seconds to go at that rate; None while it is not known.
    """

    table: str
    stream: int
    rows: int
    total: int
    rate: float
    eta_seconds: float | None

    def __str__(self) -> str:
        share = 100 * self.rows // self.total if self.total else 100
        left = "" if self.eta_seconds is None else f", {self.eta_seconds:.0f} s to go"
        return f"{self.table}: {self.rows:,} of {self.total:,} rows ({share} %), {self.rate:,.0f} rows/s{left}"


@dataclass(frozen=True)
class CopyResult:
    """What ``copy_table`` did.

    Attributes:
        rows: Rows of this stream's chunks, all of them in the target now.
        bytes: Bytes sent by this call.
        chunks_copied: Chunks that this call brought.
        chunks_already_there: Chunks that an earlier try of the same run had brought.
    """

    table: str
    rows: int
    bytes: int
    seconds: float
    chunks_copied: int
    chunks_already_there: int


def plan_chunks(snapshot: apsw.Connection, table: str, chunk_rows: int = CHUNK_ROWS) -> list[Chunk]:
    """Cut a table into ranges of ``chunk_rows`` rows by rowid, and count the rows of each.

    A table without a rowid is one chunk without bounds, and so is an empty one.
    """
    if chunk_rows < 1:
        raise ValueError("a chunk has at least one row")
    found = source_schema.shape(snapshot, table)
    if found.rowid is None:
        return [Chunk(table, 0, None, None, source_schema.counts(snapshot, [table])[table])]
    rowid, rows = found.rowid, f"FROM main.{source_schema.quote(table)} NOT INDEXED"
    chunks: list[Chunk] = []
    lower = snapshot.execute(f"SELECT min({rowid}) {rows}").get
    while lower is not None:
        last = f"SELECT {rowid} {rows} WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1 OFFSET ?"
        upper, count = snapshot.execute(last, (lower, chunk_rows - 1)).get, chunk_rows
        if upper is None:
            upper = snapshot.execute(f"SELECT max({rowid}) {rows}").get
            count = snapshot.execute(f"SELECT count(*) {rows} WHERE {rowid} >= ?", (lower,)).get
        chunks.append(Chunk(table, len(chunks), lower, upper, count))
        lower = snapshot.execute(f"SELECT min({rowid}) {rows} WHERE {rowid} > ?", (upper,)).get
    return chunks or [Chunk(table, 0, None, None, 0)]


def copy_table(
    snapshot: Path,
    conninfo: str,
    *,
    run_id: str,
    epoch: int,
    schema: str,
    table: str,
    chunk_rows: int = CHUNK_ROWS,
    stream: int = 0,
    streams: int = 1,
    secret: Collection[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
    progress_seconds: float = 5.0,
    stall_seconds: float = STALL_SECONDS,
) -> CopyResult:
    """Copy a table, or one stream's share of its chunks, into the table of the same name.

    Safe to run again, also beside an earlier try that still runs: chunks that are committed are skipped, and who finds a
    chunk with another session waits for it. Chunks are planned by whoever comes first and never changed within a run.
    Memory stays below 100 MB, or some multiples of the widest row.

    Args:
        snapshot: Backup or clone; see ``source.open_snapshot``.
        conninfo: The target. Its ``application_name`` stays; without one it is made from run, table and stream.
        chunk_rows: Rows of a transaction, where the table's chunks are not planned yet.
        secret: Columns whose content is in no error, not even as a key.
        stream: This call takes the chunks whose number, divided by ``streams``, leaves ``stream``.
        on_progress: Called at the begin, at the end, and about every ``progress_seconds``, also inside a chunk. What it
            raises ends the copy; the open chunk is rolled back.
        stall_seconds: The connection is given up when the target was silent for so long; an earlier try that has a chunk
            and stands still for so long is ended.

    Raises:
        WrongData: A value cannot be carried over unchanged; names table, column and key. Its chunk is not in the target.
        LeaseLost: Another run took the target over; nothing of the open chunk is in the target.
        Refused: The two tables do not fit, or the target's holds rows that this run did not bring.
        Unreachable: The target did not answer, or broke off; trying again goes on where this ended.
        CannotCheck: The snapshot cannot be read, or is not the one that the chunks were planned from.
        StepFailed: PostgreSQL did not take what was sent.
    """
    if not 0 <= stream < streams:
        raise ValueError(f"stream {stream} of {streams}")
    began = time.monotonic()
    name = ledger.application_name(run_id, f"copy.{table}.{stream}" if streams > 1 else f"copy.{table}")
    try:
        with (
            snapshots.snapshot(snapshot) as reading,
            target_session.session(conninfo, schema, application_name=_name(conninfo, name)) as connection,
            _Watchdog(connection, stall_seconds) as watchdog,
        ):
            copy = _Copy(reading, connection, watchdog, stall_seconds, run_id, epoch, schema, table, secret)
            chunks = copy.chunks(chunk_rows)
            if not all(chunk.copied for chunk in chunks):  # when all is there, later steps may have added rows
                copy.refuse_foreign_rows()
            mine = [chunk for chunk in chunks if chunk.number % streams == stream]
            meter = _Meter(table, stream, mine, on_progress, progress_seconds)
            copied = [copy.chunk(chunk, meter) for chunk in mine if not chunk.copied]
            meter.end()
    except Unreachable:
        with contextlib.suppress(Unreachable):
            ledger.check(conninfo, run_id, epoch)  # a takeover ends our session: then that is the news, not the broken line
        raise
    return CopyResult(
        table,
        sum(chunk.rows for chunk in mine),
        meter.bytes,
        time.monotonic() - began,
        sum(copied),
        len(mine) - sum(copied),
    )


def _name(conninfo: str, otherwise: str) -> str | None:
    """None where the connection string has an application name of its own, or is none: the session says so then."""
    try:
        return None if psycopg.conninfo.conninfo_to_dict(conninfo).get("application_name") else otherwise
    except psycopg.ProgrammingError:
        return None


class _Meter:
    """Counts rows and bytes, and tells about them."""

    def __init__(
        self, table: str, stream: int, chunks: Sequence[Chunk], tell: Callable[[Progress], None] | None, seconds: float
    ) -> None:
        self.bytes = 0
        self._table, self._stream = table, stream
        self._total = sum(chunk.rows for chunk in chunks)
        self._before = self._rows = sum(chunk.rows for chunk in chunks if chunk.copied)
        self._tell, self._seconds = tell, seconds
        self._began = self._told = time.monotonic()
        if tell is not None:
            tell(self._progress(self._began))

    @property
    def state(self) -> tuple[int, int]:
        """Rows and bytes so far; set again when a transaction was rolled back."""
        return self._rows, self.bytes

    @state.setter
    def state(self, state: tuple[int, int]) -> None:
        self._rows, self.bytes = state

    def add(self, block: Block) -> None:
        self._rows += block.rows
        self.bytes += len(block.data)
        now = time.monotonic()
        if self._tell is not None and now - self._told >= self._seconds:
            self._told = now
            self._tell(self._progress(now))

    def already_there(self, rows: int) -> None:
        """Rows that another try brought meanwhile; they are nobody's speed."""
        self._rows += rows
        self._before += rows

    def end(self) -> None:
        if self._tell is not None:
            self._tell(self._progress(time.monotonic()))

    def _progress(self, now: float) -> Progress:
        rows, seconds = self._rows - self._before, now - self._began
        rate = rows / seconds if seconds > 0 else 0.0
        left = (self._total - self._rows) / rate if rate > 0 else None
        return Progress(self._table, self._stream, self._rows, self._total, rate, left)


class _Watchdog:
    """Shuts a connection's socket down when the other side was waited for too long.

    A peer that is there but silent (a hung proxy, a stopped server) keeps libpq waiting for ever; no setting of it helps.
    The wait then ends with a broken connection, and the server rolls back.
    """

    def __init__(self, connection: target_session.Connection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds
        self._moved = math.inf
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="copy watchdog", daemon=True)

    def moved(self) -> None:
        """Something was sent or answered; from now on the other side is waited for."""
        self._moved = time.monotonic()

    def rest(self) -> None:
        """Nobody waits for the other side until the next ``moved``: a slow disk of our own is not its silence."""
        self._moved = math.inf

    def __enter__(self) -> _Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._moved > self._seconds:
                log.error("the target was silent for %g s: giving the connection up", self._seconds)
                self._connection.cut()
                return


class _OtherNumber(Exception):
    """PostgreSQL took another number of rows than were sent."""

    def __init__(self, sent: int, taken: int) -> None:
        super().__init__()
        self.sent, self.taken = sent, taken

    def told(self, where: str) -> StepFailed:
        """For people."""
        return StepFailed(
            "PostgreSQL took another number of rows than were sent",
            where=where,
            expected=f"{self.sent} rows",
            found=f"{self.taken} rows",
            do="Nothing of the chunk is in the target; look for rules and triggers on the table.",
        )


class _Copy:
    """The copy of one table over one connection."""

    def __init__(
        self,
        snapshot: apsw.Connection,
        connection: psycopg.Connection,
        watchdog: _Watchdog,
        stall_seconds: float,
        run_id: str,
        epoch: int,
        schema: str,
        table: str,
        secret: Collection[str],
    ) -> None:
        self._secret = secret
        self._snapshot, self._connection = snapshot, connection
        self._watchdog, self._stall_seconds = watchdog, stall_seconds
        self._run_id, self._epoch, self._schema, self._table = run_id, epoch, schema, table
        self._guard = ledger.guard(run_id, epoch)
        self._shape = source_schema.shape(snapshot, table)
        self._conversions = match_columns(source_schema.columns(snapshot, table), self._target_columns(), table)
        self._reader = TableReader(snapshot, self._shape, self._conversions, secret=secret)
        names = sql.SQL(", ").join(sql.Identifier(item.column) for item in self._conversions)
        self._statement = _COPY.format(sql.Identifier(schema), sql.Identifier(table), names)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        self._watchdog.moved()
        named = {"schema": self._schema, "table": self._table}
        return self._connection.cursor(row_factory=tuple_row).execute(query, named).fetchall()

    def _target_columns(self) -> list[TargetColumn]:
        if self._rows("SHOW server_encoding") != [("UTF8",)]:
            raise Refused(
                "the target database does not store UTF-8",
                where=f"schema {self._schema}",
                expected="server_encoding UTF8",
                do="Make the database with ENCODING 'UTF8'.",
            )
        found = target_columns(self._connection, self._schema, self._table)
        if not found:
            raise Refused(
                "the target has no such table",
                where=f"{self._schema}.{self._table}",
                do="Run the steps that apply the plan's SQL first.",
            )
        triggers = self._rows(_INSERT_TRIGGERS)
        if triggers:
            raise Refused(
                "a trigger would change or drop rows while they are copied",
                where=f"{self._schema}.{self._table}",
                expected="no trigger on INSERT",
                found=", ".join(name for (name,) in triggers),
                do="Create it after the load, in post_data.",
            )
        return found

    def chunks(self, chunk_rows: int) -> list[Chunk]:
        """The table's chunks as stored; planned now where nobody has yet."""
        self._watchdog.moved()
        stored = checkpoints.read_chunks(self._connection, self._run_id, [self._table])
        if not stored:
            self._watchdog.rest()
            planned = plan_chunks(self._snapshot, self._table, chunk_rows)
            self._watchdog.moved()
            stored = checkpoints.store_chunks(self._connection, self._run_id, self._epoch, planned)
        return stored

    def refuse_foreign_rows(self) -> None:
        """Rows commit together with their record: rows without any record of this run are somebody else's."""
        # In a query with parameters a % in the table's name would be read as one.
        held = sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(self._schema, self._table))
        ours = "SELECT FROM cutover.copied WHERE run_id = %s AND table_name = %s AND rows > 0 LIMIT 1"
        self._watchdog.moved()
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            rows = cursor.execute(held).fetchone() is not None
            foreign = rows and cursor.execute(ours, [self._run_id, self._table]).fetchone() is None
        if foreign:
            raise Refused(
                "the target's table holds rows that this run did not bring",
                where=f"{self._schema}.{self._table}",
                expected="an empty table",
                do="Empty it, or put the schema aside, when you know whose rows they are.",
            )

    def chunk(self, chunk: Chunk, meter: _Meter) -> bool:
        """Copy one chunk; whether it was still to do."""
        before = meter.state
        try:
            return self._attempt(chunk, meter)
        except (*_REFUSED_BY_POSTGRESQL, _OtherNumber) as error:
            if not self._reader.count_separators:
                log.info("%s is read again: there may be separators in its data", self._where(chunk))
                self._reader.count_separators = True
                meter.state = before
                return self.chunk(chunk, meter)
            if isinstance(error, _OtherNumber):
                raise error.told(self._where(chunk)) from None
            raise self._explained(chunk, error) from None
        except psycopg.Error as error:
            raise target_session.as_cutover_error(error, self._where(chunk)) from None

    def _attempt(self, chunk: Chunk, meter: _Meter) -> bool:
        self._watchdog.moved()
        while True:
            with self._connection.transaction():
                self._guard(self._connection)
                if checkpoints.claim(self._connection, self._run_id, chunk):
                    if not checkpoints.record_copied(self._connection, self._run_id, self._epoch, chunk):
                        meter.already_there(chunk.rows)
                        return False
                    self._send(chunk, meter)
                    return True
            self._wait_for_claimant(chunk)

    def _wait_for_claimant(self, chunk: Chunk) -> None:
        """Wait for an earlier try that has the chunk, and end it when it stands still.

        It may be a task that was declared dead and is not, or one whose network is gone: its server process would hold the
        chunk for hours, whatever the timeouts say.
        """
        seen, since = checkpoints.claimant(self._connection, self._run_id, chunk), time.monotonic()
        if seen is not None:
            log.warning("%s is with another session (pid %s): waiting for it", self._where(chunk), seen.pid)
        while seen is not None:
            self._watchdog.rest()
            time.sleep(min(0.2, self._stall_seconds / 4))
            self._watchdog.moved()
            now = checkpoints.claimant(self._connection, self._run_id, chunk)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._stall_seconds:
                checkpoints.end(self._connection, seen)
                since = time.monotonic()

    def _where(self, chunk: Chunk) -> str:
        return f"table {self._table}, chunk {chunk.number}"

    def _send(self, chunk: Chunk, meter: _Meter) -> None:
        rows = 0
        with self._connection.cursor() as cursor:
            with cursor.copy(self._statement) as copy:
                self._watchdog.rest()
                for block in self._reader.blocks(chunk):
                    self._watchdog.moved()
                    copy.write(block.data)
                    self._watchdog.rest()
                    rows += block.rows
                    meter.add(block)
                self._watchdog.moved()
            taken = cursor.rowcount
        if rows != chunk.rows:
            raise CannotCheck(
                "the snapshot does not hold the rows that the chunks were planned from",
                where=self._where(chunk),
                expected=f"{chunk.rows} rows",
                found=f"{rows} rows",
                do="Copy from the backup of this run; it must not have been changed or replaced.",
            )
        if taken != rows:
            raise _OtherNumber(rows, taken)

    # --- which row PostgreSQL refused

    def _explained(self, chunk: Chunk, error: psycopg.Error) -> CutoverError:
        """The error for the row that PostgreSQL refused.

        The server says in which line, but in its own language and with the value beside it. So the chunk is copied once
        more, exactly, some rows at a time under a savepoint and the refused ones row by row, and rolled back.
        """
        self._watchdog.moved()
        exact = TableReader(self._snapshot, self._shape, self._conversions, exact=True, secret=self._secret)
        try:
            with self._connection.transaction(force_rollback=True):
                self._guard(self._connection)
                rows = exact.rows(chunk)
                self._watchdog.rest()
                while batch := list(itertools.islice(rows, _ROWS_TRIED_AT_ONCE)):
                    if self._refusal(batch) is None:
                        continue
                    for row in batch:
                        if refusal := self._refusal([row]):
                            return self._refused(row, refusal)
        except WrongData as wrong:
            return wrong
        except psycopg.Error as broken:
            return target_session.as_cutover_error(broken, self._where(chunk))
        return StepFailed(
            "PostgreSQL refused the chunk, but none of its rows when they were looked at one by one",
            where=self._where(chunk),
            found=target_session.primary_message(error),
            do="Look at the server's log; try again.",
        )

    def _refusal(self, rows: Sequence[Row]) -> psycopg.Error | None:
        self._watchdog.moved()
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor, cursor.copy(self._statement) as copy:
                for row in rows:
                    copy.write(row.line)
        except _REFUSED_BY_POSTGRESQL as error:
            return error
        finally:
            self._watchdog.rest()
        return None

    def _refused(self, row: Row, error: psycopg.Error) -> WrongData:
        self._watchdog.moved()
        for item, value in zip(self._conversions, row.values, strict=True):
            if value is None:
                continue
            # A % in the name of a domain would be read as a parameter.
            cast = sql.SQL("SELECT CAST({} AS {})").format(sql.Placeholder(), sql.SQL(item.type.replace("%", "%%")))
            try:
                with self._connection.transaction():
                    self._connection.execute(cast, [item.exact(value)])
            except _REFUSED_BY_POSTGRESQL as wrong:
                found = f"{value_class(value)}; {target_session.primary_message(wrong)}"
                return wrong_data(self._table, item, row.key, "a value that PostgreSQL accepts", found)
        column = f", column {error.diag.column_name}" if error.diag.column_name else ""
        return WrongData(
            "PostgreSQL refuses this row",
            where=f"table {self._table}{column}, key {row.key}",
            expected=f"a row that {error.diag.constraint_name or 'the table'} accepts",
            found=target_session.primary_message(error),
            do="Correct the row in the source, or the constraint in the plan's SQL; then start over.",
        )


_INSERT_TRIGGERS = """
    SELECT trigger.tgname
    FROM pg_trigger AS trigger
    JOIN pg_class AS class ON class.oid = trigger.tgrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s
      AND NOT trigger.tgisinternal AND trigger.tgenabled <> 'D' AND trigger.tgtype & 4 > 0
    ORDER BY trigger.tgname
"""
