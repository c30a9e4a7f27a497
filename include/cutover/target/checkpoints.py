"""Chunks of tables and their checkpoints, in the ledger.

A chunk's rows and its checkpoint commit in one transaction: neither a retry nor an attempt that was declared dead can lose
or double a row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import tuple_row

from include.cutover.target import ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """A part of a table that is copied in one transaction.

    Attributes:
        number: Counted from 0 within the table.
        lower: First rowid of the chunk; None where the table is one chunk without bounds.
        upper: Last rowid of the chunk.
        rows: Rows of the snapshot within the bounds.
        copied: True when its rows are committed in the target.
    """

    table: str
    number: int
    lower: int | None
    upper: int | None
    rows: int
    copied: bool = False


def plan_chunks(conninfo: str, run_id: str, epoch: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Store the chunks of tables, once per run and table.

    Safe to run again, and from several streams at once: the bounds that were stored first stay, because rows may already
    have been copied by them.

    Args:
        conninfo: The target.
        run_id: The run that copies.
        epoch: Of the lease that the run holds.
        chunks: In order, whole tables.

    Returns:
        The chunks as stored, of all tables among ``chunks``, in order.

    Raises:
        LeaseLost: When the run does not hold the lease.
    """
    with ledger.session(conninfo) as connection:
        return store_chunks(connection, run_id, epoch, chunks)


def store_chunks(connection: psycopg.Connection, run_id: str, epoch: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Store chunks as ``plan_chunks`` does, in an open session.

    Args:
        connection: In autocommit mode, outside of a transaction.
        run_id: The run that copies.
        epoch: Of the lease that the run holds.
        chunks: In order, whole tables.
    """
    tables = sorted({chunk.table for chunk in chunks})
    with connection.transaction():
        ledger.guard(run_id, epoch)(connection)
        connection.execute("LOCK TABLE cutover.chunk IN SHARE ROW EXCLUSIVE MODE")
        known = {chunk.table for chunk in read_chunks(connection, run_id, tables)}
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO cutover.chunk (run_id, table_name, number, lower, upper, rows) VALUES (%s, %s, %s, %s, %s, %s)",
                [
                    (run_id, chunk.table, chunk.number, chunk.lower, chunk.upper, chunk.rows)
                    for chunk in chunks
                    if chunk.table not in known
                ],
            )
    return read_chunks(connection, run_id, tables)


def stored_chunks(conninfo: str, run_id: str, table: str) -> list[Chunk]:
    """Return the stored chunks of a table in order; empty while they are not planned."""
    with ledger.session(conninfo) as connection:
        return read_chunks(connection, run_id, [table])


def read_chunks(connection: psycopg.Connection, run_id: str, tables: Iterable[str]) -> list[Chunk]:
    """Return the stored chunks of several tables, in an open session."""
    query = """
        SELECT chunk.table_name, chunk.number, chunk.lower, chunk.upper, chunk.rows, copied.number IS NOT NULL
        FROM cutover.chunk AS chunk LEFT JOIN cutover.copied AS copied USING (run_id, table_name, number)
        WHERE run_id = %s AND table_name = ANY(%s)
        ORDER BY chunk.table_name COLLATE "C", chunk.number
    """
    rows = connection.cursor(row_factory=tuple_row).execute(query, [run_id, list(tables)])
    return [Chunk(*row) for row in rows]


def claim(connection: psycopg.Connection, run_id: str, chunk: Chunk) -> bool:
    """Claim a chunk until the transaction ends; return False immediately while another session holds it."""
    query = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
    return bool(ledger.value(connection, query, _claim_name(run_id, chunk)))


@dataclass(frozen=True)
class Claimant:
    """The session that holds a chunk.

    Attributes:
        bytes: Bytes that its COPY has received so far; None outside of COPY.
    """

    pid: int
    application_name: str
    bytes: int | None


def claimant(connection: psycopg.Connection, run_id: str, chunk: Chunk) -> Claimant | None:
    """Return the session that holds a chunk now; None when it is free."""
    query = """
        SELECT activity.pid, activity.application_name, progress.bytes_processed
        FROM (SELECT hashtextextended(%s, 0) AS key) AS claim
        JOIN pg_locks AS lock ON lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
            AND lock.classid = (claim.key >> 32 & 4294967295)::oid AND lock.objid = (claim.key & 4294967295)::oid
        JOIN pg_stat_activity AS activity ON activity.pid = lock.pid AND activity.datid = lock.database
        LEFT JOIN pg_stat_progress_copy AS progress ON progress.pid = lock.pid
        WHERE activity.datname = current_database()
    """
    row = connection.cursor(row_factory=tuple_row).execute(query, [_claim_name(run_id, chunk)]).fetchone()
    return Claimant(*row) if row else None


def end(connection: psycopg.Connection, session: Claimant) -> None:
    """Terminate a session that makes no progress; what it had not committed is rolled back."""
    log.warning("ending session %s (%s): it holds a chunk and makes no progress", session.pid, session.application_name)
    connection.execute("SELECT pg_terminate_backend(%s)", [session.pid])


def _claim_name(run_id: str, chunk: Chunk) -> str:
    return f"cutover chunk {chunk.number} of {chunk.table} of {run_id}"


def record_copied(connection: psycopg.Connection, run_id: str, epoch: int, chunk: Chunk) -> bool:
    """Record, inside the transaction that copies a chunk, that it is copied.

    Args:
        connection: In that transaction, after ``claim`` and the guard.
        run_id: The run that copies.
        epoch: Of the lease that the run holds.
        chunk: The chunk whose rows the transaction copies.

    Returns:
        False when another attempt has committed the same chunk: there is nothing left to do. While another attempt's
        transaction is open this waits for its end, up to the session's ``lock_timeout``; ``claim`` the chunk first.
    """
    return bool(
        ledger.value(
            connection,
            "INSERT INTO cutover.copied (run_id, table_name, number, epoch, rows) "
            "VALUES (%(run)s, %(table)s, %(number)s, %(epoch)s, %(rows)s) ON CONFLICT DO NOTHING RETURNING true",
            run=run_id,
            table=chunk.table,
            number=chunk.number,
            epoch=epoch,
            rows=chunk.rows,
        )
    )
