"""Copies tables from a snapshot into the target: exact, fast, and whole chunks only.

A chunk's rows and the record that they are copied commit in one transaction, which first proves that the run still holds
the target. So a chunk is in the target once or not at all, whichever process is killed, retried, or wakes up late.

The copy itself checks: the columns of both sides are the same; every value is of a class and form that its target column
takes unchanged (see ``conversion``); the rows of every range are as many as when the chunks were planned, as many as were
sent, and as many as PostgreSQL says it took; the table held no rows that this run did not bring. The proof, which compares
every value of both sides afterwards, checks the rest: that SQLite's text of a real reads back as the same bits, that
PostgreSQL stored the values it was sent, and values that an index or constraint refuses later.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from include.cutover.copying.chunks import ALL_CHUNKS, CHUNK_ROWS, Share
from include.cutover.copying.progress import CopyProgress, Meter
from include.cutover.copying.table_copy import RunLease, TableCopy
from include.cutover.copying.watchdog import Watchdog
from include.cutover.errors import Unreachable
from include.cutover.source import snapshots
from include.cutover.target import ledger
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides

STALL_SECONDS = 120.0


@dataclass(frozen=True)
class CopyResult:
    """The figures of one call of ``copy_table``.

    Attributes:
        rows: Rows of this call's chunks, all of them in the target now.
        bytes: Bytes sent by this call.
        chunks_copied: Chunks that this call brought.
        chunks_already_there: Chunks that an earlier attempt of the same run had brought.
    """

    table: str
    rows: int
    bytes: int
    seconds: float
    chunks_copied: int
    chunks_already_there: int


def copy_table(
    sides: Sides,
    lease: RunLease,
    table: str,
    *,
    chunk_rows: int = CHUNK_ROWS,
    share: Share = ALL_CHUNKS,
    on_progress: Callable[[CopyProgress], None] | None = None,
    progress_seconds: float = 5.0,
    stall_seconds: float = STALL_SECONDS,
) -> CopyResult:
    """Copy a table, or a share of its chunks, into the table of the same name.

    Safe to run again, also beside an earlier attempt that still runs: chunks that are committed are skipped, and a chunk
    that another session has is waited for. The first session plans the chunks, and they never change within a run.
    Memory stays below 100 MB, or some multiples of the widest row.

    Args:
        sides: The snapshot, opened as ``source.schema.snapshot`` does it, and the target. An ``application_name`` in its
            connection string stays; without one it is made from run, table and stream. No error holds the content of a
            secret column, not even as a key.
        lease: The run that holds the target.
        table: Its name, the same on both sides.
        chunk_rows: Rows of a transaction, where the table's chunks are not planned yet.
        share: The chunks that this call takes.
        on_progress: Called at the begin, at the end, and about every ``progress_seconds``, also inside a chunk. An error
            that it raises ends the copy; the open chunk is rolled back.
        progress_seconds: Seconds between two calls of ``on_progress``.
        stall_seconds: The connection is closed when the target was silent for so many seconds; an earlier attempt that
            has a chunk and makes no progress for so long is ended.

    Returns:
        The figures of this call.

    Raises:
        WrongData: A value cannot be carried over unchanged; names table, column and key. Its chunk is not in the target.
        LeaseLost: Another run took the target over; nothing of the open chunk is in the target.
        Refused: The two tables do not fit, or the target's holds rows that this run did not bring.
        Unreachable: The target did not answer, or broke off; a retry continues where this ended.
        CannotCheck: The snapshot cannot be read, or is not the one that the chunks were planned from.
        StepFailed: PostgreSQL did not take the rows that were sent.
    """
    began = time.monotonic()
    try:
        with _opened(sides, lease, table, share, stall_seconds) as copy:
            chunks = copy.chunks(chunk_rows)
            if not all(chunk.copied for chunk in chunks):  # when all is there, later steps may have added rows
                copy.refuse_foreign_rows()
            mine = [chunk for chunk in chunks if chunk in share]
            meter = Meter(table, share.stream, mine, on_progress, progress_seconds)
            copied = [copy.chunk(chunk, meter) for chunk in mine if not chunk.copied]
            meter.end()
    except Unreachable:
        with contextlib.suppress(Unreachable):
            # A takeover ends our session: then report the takeover, not the broken line.
            ledger.check(sides.conninfo, lease.run_id, lease.epoch)
        raise
    rows, seconds = sum(chunk.rows for chunk in mine), time.monotonic() - began
    return CopyResult(table, rows, meter.bytes, seconds, sum(copied), len(mine) - sum(copied))


@contextlib.contextmanager
def _opened(sides: Sides, lease: RunLease, table: str, share: Share, stall_seconds: float) -> Iterator[TableCopy]:
    """Open both sides, with a watchdog over the target's."""
    name = ledger.application_name(lease.run_id, f"copy.{table}.{share.stream}" if share.streams > 1 else f"copy.{table}")
    with (
        snapshots.snapshot(sides.snapshot) as reading,
        target_session.session(sides.conninfo, sides.schema, application_name=_name(sides.conninfo, name)) as connection,
        Watchdog(connection, stall_seconds, sides.conninfo) as watchdog,
    ):
        try:
            yield TableCopy(reading, connection, watchdog, sides, lease, table)
        except (psycopg.Error, Unreachable):
            reason = watchdog.reason()
            if reason is None:
                raise
            reason.where = f"table {table}"
            raise reason from None


def _name(conninfo: str, otherwise: str) -> str | None:
    """Return None where the connection string names an application, or cannot be parsed: the session reports that."""
    try:
        return None if psycopg.conninfo.conninfo_to_dict(conninfo).get("application_name") else otherwise
    except psycopg.ProgrammingError:
        return None
