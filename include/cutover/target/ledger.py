"""The ledger: schema ``cutover`` in the target, where a run's right to write and its finished chunks are recorded.

It lives in the database that it speaks about, so that a record and the rows it records commit together. There is one lease
in a target, because two cutovers into one database at a time are one too many. Every transaction that changes the target
first locks the lease's row in shared mode (see ``guard``); taking the lease over needs that row alone, so when ``take_over``
returns, no transaction of the run before is left that could still commit.

Tables: ``run`` · ``lease`` (one row) · ``chunk`` (bounds, computed once) · ``copied`` (chunks whose rows are in the target)
· ``go_live`` (where the target stood right before the application was let in).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from include.cutover.errors import LeaseLost, Refused, Unreachable
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

SCHEMA = "cutover"

Guard = Callable[[psycopg.Connection], None]

_STATEMENT_TIMEOUT = "60s"
_RUN_CHARACTERS = 40
_NAME_BYTES = 63  # PostgreSQL cuts application_name there
_TABLES: dict[str, dict[str, str]] = {
    "run": {
        "run_id": "text PRIMARY KEY",
        "plan": "text NOT NULL",
        "opened_at": "timestamptz NOT NULL DEFAULT now()",
        "closed_at": "timestamptz",
    },
    "lease": {
        "one": "boolean PRIMARY KEY DEFAULT true CHECK (one)",
        "run_id": "text",
        "holder": "text",
        "epoch": "bigint NOT NULL DEFAULT 0",
        "acquired_at": "timestamptz",
    },
    "chunk": {
        "run_id": "text",
        "table_name": "text",
        "number": "integer",
        "lower": "bigint",
        "upper": "bigint",
        "rows": "bigint NOT NULL",
        "PRIMARY KEY": "(run_id, table_name, number)",
    },
    "copied": {
        "run_id": "text",
        "table_name": "text",
        "number": "integer",
        "epoch": "bigint NOT NULL",
        "rows": "bigint NOT NULL",
        "copied_at": "timestamptz NOT NULL DEFAULT clock_timestamp()",
        "PRIMARY KEY": "(run_id, table_name, number)",
    },
    "go_live": {
        "run_id": "text PRIMARY KEY",
        "marker": "jsonb NOT NULL",
        "at": "timestamptz NOT NULL DEFAULT clock_timestamp()",
    },
}


@dataclass(frozen=True)
class Chunk:
    """A part of a table that is copied in one transaction.

    Attributes:
        number: Counted from 0 within the table.
        lower: First rowid of the chunk; None where the table is one chunk without bounds.
        upper: Last rowid of the chunk.
        rows: Rows of the snapshot within the bounds.
        copied: Whether its rows are committed in the target.
    """

    table: str
    number: int
    lower: int | None
    upper: int | None
    rows: int
    copied: bool = False


@dataclass(frozen=True)
class TargetLease:
    """Who may change the target.

    Attributes:
        run_id: The cutover that holds it; None while it is free.
        holder: Who acts for that cutover: the run itself, or whoever took it over.
        epoch: Grows with every change of holder; never falls.
    """

    run_id: str | None
    holder: str | None
    epoch: int
    acquired_at: datetime | None


def application_name(run_id: str, step: str) -> str:
    """``application_name`` for every session of a step: ``take_over`` knows the sessions of a run by its beginning."""
    return f"{_run_prefix(run_id)}{step}".encode("ascii", "replace")[:_NAME_BYTES].decode()


def _run_prefix(run_id: str) -> str:
    return f"{run_id[-_RUN_CHARACTERS:]}:"


def ensure(conninfo: str) -> None:
    """Make the ledger where it is missing. Safe to run again, and by several processes at once.

    Raises:
        Refused: When a schema of that name exists and is something else.
    """
    with _session(conninfo) as connection, connection.transaction():
        # CREATE … IF NOT EXISTS can fail when two do it at once.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover ledger', 0))")
        if not _value(connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", SCHEMA):
            connection.execute("CREATE SCHEMA cutover")
        existing = _columns(connection)
        for table, columns in _TABLES.items():
            names = {name for name in columns if name.islower()}
            if table not in existing:
                body = ", ".join(f"{name} {definition}" for name, definition in columns.items())
                connection.execute(f"CREATE TABLE cutover.{table} ({body})")
            elif existing[table] != names:
                raise Refused(
                    "a table of that name exists and is not the ledger's",
                    where=f"{SCHEMA}.{table}",
                    expected=f"the columns {', '.join(sorted(names))}",
                    found=", ".join(sorted(existing[table])),
                    do=f"Drop or rename the schema {SCHEMA} if no cutover needs it any more.",
                )
        if not _value(connection, "SELECT EXISTS (SELECT FROM cutover.lease)"):
            connection.execute("INSERT INTO cutover.lease DEFAULT VALUES")


def _session(conninfo: str, **settings: str) -> AbstractContextManager[target_session.Connection]:
    """A session whose statements are small: one that takes long is not at work but held up."""
    return target_session.session(conninfo, SCHEMA, settings={"statement_timeout": _STATEMENT_TIMEOUT, **settings})


def _columns(connection: psycopg.Connection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    query = """
        SELECT class.relname, attribute.attname
        FROM pg_attribute AS attribute
        JOIN pg_class AS class ON class.oid = attribute.attrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %s AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND attribute.attnum > 0 AND NOT attribute.attisdropped
    """
    for table, column in connection.cursor(row_factory=tuple_row).execute(query, [SCHEMA]):
        found.setdefault(table, set()).add(column)
    return found


# --- the lease ----------------------------------------------------------------------------------------------------------


def lease(conninfo: str) -> TargetLease | None:
    """Who holds the target's lease; None where there is no ledger."""
    with _session(conninfo) as connection:
        if _value(connection, "SELECT to_regclass('cutover.lease')") is None:
            return None
        return _read(connection)


def open_run(conninfo: str, run_id: str, plan: str) -> int:
    """Record a run and give it the lease of the target.

    Safe to run again: a run that still holds the lease gets the same epoch.

    Returns:
        The epoch under which the run writes; pass it to ``guard``.

    Raises:
        Refused: When another run holds the lease, or this one's was taken over; nothing is changed.
    """
    with _session(conninfo) as connection, connection.transaction():
        current = _read(connection)
        if current.run_id == run_id and current.holder == run_id:
            return current.epoch
        if current.run_id is not None:
            raise _held(current)
        # No lock was taken to look: the condition is looked at again under the row's lock.
        epoch = _value(
            connection,
            "UPDATE cutover.lease SET run_id = %(run)s, holder = %(run)s, epoch = epoch + 1, "
            "acquired_at = clock_timestamp() WHERE run_id IS NULL RETURNING epoch",
            run=run_id,
        )
        if epoch is None:
            raise _held(_read(connection))
        connection.execute(
            "INSERT INTO cutover.run (run_id, plan) VALUES (%s, %s) "
            "ON CONFLICT (run_id) DO UPDATE SET closed_at = NULL, plan = excluded.plan",
            [run_id, plan],
        )
        return int(epoch)


def guard(run_id: str, epoch: int) -> Guard:
    """A check to call first in every transaction that changes the target.

    It locks the lease's row in shared mode until the transaction ends: nobody can take the lease over between the check
    and the commit. It raises ``LeaseLost`` when the run does not hold the lease under that epoch any more.
    """

    def check(connection: psycopg.Connection) -> None:
        if connection.autocommit and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            raise RuntimeError("the guard protects the transaction it is called in, and there is none")
        # FOR SHARE, not FOR KEY SHARE: an update of other columns than the key must wait for it.
        query = "SELECT true FROM cutover.lease WHERE run_id = %(run)s AND epoch = %(epoch)s FOR SHARE"
        if not _value(connection, query, run=run_id, epoch=epoch):
            raise _lost(run_id, epoch, _read(connection))

    return check


def take_over(conninfo: str, run_id: str, by: str, *, lock_seconds: float = 2.0, attempts: int = 10) -> int:
    """Take the lease for ``run_id`` from whoever holds it, and shut the holder out.

    When this returns, no transaction that passed the old holder's guard is open any more: each has committed, or has been
    terminated. A client that was stopped in the middle of COPY cannot commit when it goes on. Safe to run again: the epoch
    rises each time.

    Args:
        by: Who does it; shown to those who lost the lease.
        lock_seconds: How long a transaction of the old holder may take to end by itself.
        attempts: How often its sessions are terminated before this gives up.

    Returns:
        The new epoch.

    Raises:
        Unreachable: When the lease's row stays locked although every session of the old holder was terminated.
    """
    ensure(conninfo)
    with _session(conninfo, lock_timeout=f"{max(1, round(lock_seconds * 1000))}ms") as connection:
        for _ in range(attempts):
            try:
                return _raise_epoch(connection, run_id, by)
            except errors.LockNotAvailable:
                _terminate_holders(connection)
        locking = connection.cursor(row_factory=tuple_row).execute(
            "SELECT DISTINCT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE relation = 'cutover.lease'::regclass AND datname = current_database() AND granted"
        )
        raise Unreachable(
            "the lease stays locked although the sessions of its holder were ended",
            where=f"{SCHEMA}.lease",
            found=", ".join(f"pid {pid} ({name})" for pid, name in locking) or "nobody now",
            do="Let those sessions end, then try again.",
        )


def _raise_epoch(connection: psycopg.Connection, run_id: str, by: str) -> int:
    epoch = _value(
        connection,
        "UPDATE cutover.lease SET run_id = %(run)s, holder = %(by)s, epoch = epoch + 1, acquired_at = clock_timestamp() "
        "RETURNING epoch",
        run=run_id,
        by=by,
    )
    if epoch is None:
        raise Unreachable("the lease's row is gone", where=f"{SCHEMA}.lease", do="Try again.")
    return int(epoch)


def _terminate_holders(connection: psycopg.Connection) -> None:
    """End the old holder's sessions: those of its name, and those that passed a guard under whatever name."""
    old = _read(connection).run_id
    query = """
        SELECT activity.pid, activity.application_name, pg_terminate_backend(activity.pid)
        FROM pg_stat_activity AS activity
        WHERE activity.datname = current_database() AND activity.pid <> pg_backend_pid()
          AND (%(prefix)s <> '' AND left(activity.application_name, length(%(prefix)s)) = %(prefix)s
               OR activity.pid IN (SELECT pid FROM pg_locks
                                   WHERE relation = 'cutover.lease'::regclass AND mode = 'RowShareLock' AND granted
                                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))
    """
    rows = connection.cursor(row_factory=tuple_row).execute(query, {"prefix": application_name(old, "") if old else ""})
    for pid, name, _ in rows:
        log.warning("ended session %s (%s) of the run that lost the lease", pid, name)


def release(conninfo: str, run_id: str, epoch: int) -> bool:
    """Give the lease back at the end of a run. Safe to run again: nothing happens where the run no longer holds it.

    Returns:
        Whether it was held under that epoch.
    """
    with _session(conninfo) as connection, connection.transaction():
        held = _value(
            connection,
            "UPDATE cutover.lease SET run_id = NULL, holder = NULL, acquired_at = NULL "
            "WHERE run_id = %(run)s AND epoch = %(epoch)s RETURNING true",
            run=run_id,
            epoch=epoch,
        )
        if held:
            connection.execute("UPDATE cutover.run SET closed_at = clock_timestamp() WHERE run_id = %s", [run_id])
        return bool(held)


def check(conninfo: str, run_id: str, epoch: int) -> None:
    """Raise ``LeaseLost`` when the run does not hold the lease under that epoch now."""
    with _session(conninfo) as connection, connection.transaction():
        guard(run_id, epoch)(connection)


def _read(connection: psycopg.Connection) -> TargetLease:
    query = "SELECT run_id, holder, epoch, acquired_at FROM cutover.lease"
    row = connection.cursor(row_factory=tuple_row).execute(query).fetchone()
    return TargetLease(*row) if row else TargetLease(None, None, 0, None)


def _held(current: TargetLease) -> Refused:
    return Refused(
        "another run holds the lease of the target",
        where=f"{SCHEMA}.lease",
        expected="a free lease",
        found=f"{_who(current)} since {current.acquired_at:%Y-%m-%d %H:%M:%S} UTC" if current.acquired_at else _who(current),
        do="Wait for the end of that run, or roll it back with the rollback DAG.",
    )


def _lost(run_id: str, epoch: int, current: TargetLease) -> LeaseLost:
    return LeaseLost(
        "this run may not write to the target any more",
        where=f"{SCHEMA}.lease",
        expected=f"{run_id} under epoch {epoch}",
        found=f"{_who(current)} under epoch {current.epoch}" if current.run_id else "a free lease",
        do="Nothing was changed by this step; follow the run that holds the lease.",
    )


def _who(current: TargetLease) -> str:
    return f"{current.run_id}" if current.holder == current.run_id else f"{current.run_id}, taken over by {current.holder}"


# --- chunks -------------------------------------------------------------------------------------------------------------


def plan_chunks(conninfo: str, run_id: str, epoch: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Store the chunks of tables, once per run and table.

    Safe to run again, and by several streams at once: the bounds that were stored first stay, whatever is given now,
    because rows may have been copied by them already.

    Returns:
        The chunks as stored, of all tables among ``chunks``, in order.

    Raises:
        LeaseLost: When the run does not hold the lease.
    """
    with _session(conninfo) as connection:
        return store_chunks(connection, run_id, epoch, chunks)


def store_chunks(connection: psycopg.Connection, run_id: str, epoch: int, chunks: Sequence[Chunk]) -> list[Chunk]:
    """``plan_chunks`` in a session that exists."""
    tables = sorted({chunk.table for chunk in chunks})
    with connection.transaction():
        guard(run_id, epoch)(connection)
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


def chunks(conninfo: str, run_id: str, table: str) -> list[Chunk]:
    """The stored chunks of a table in order; none where they were not planned yet."""
    with _session(conninfo) as connection:
        return read_chunks(connection, run_id, [table])


def read_chunks(connection: psycopg.Connection, run_id: str, tables: Iterable[str]) -> list[Chunk]:
    """``chunks`` of several tables, in a session that exists."""
    query = """
        SELECT chunk.table_name, chunk.number, chunk.lower, chunk.upper, chunk.rows, copied.number IS NOT NULL
        FROM cutover.chunk AS chunk LEFT JOIN cutover.copied AS copied USING (run_id, table_name, number)
        WHERE run_id = %s AND table_name = ANY(%s)
        ORDER BY chunk.table_name COLLATE "C", chunk.number
    """
    rows = connection.cursor(row_factory=tuple_row).execute(query, [run_id, list(tables)])
    return [Chunk(*row) for row in rows]


def claim(connection: psycopg.Connection, run_id: str, chunk: Chunk) -> bool:
    """Claim a chunk until the transaction ends; False, at once, while another session has it."""
    query = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
    return bool(_value(connection, query, _claim_name(run_id, chunk)))


@dataclass(frozen=True)
class Claimant:
    """The session that has a chunk.

    Attributes:
        bytes: What its COPY has received so far; None outside of COPY.
    """

    pid: int
    application_name: str
    bytes: int | None


def claimant(connection: psycopg.Connection, run_id: str, chunk: Chunk) -> Claimant | None:
    """Who has claimed a chunk now."""
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
    """Terminate a session that stands still; what it had not committed is gone."""
    log.warning("ending session %s (%s): it holds a chunk and stands still", session.pid, session.application_name)
    connection.execute("SELECT pg_terminate_backend(%s)", [session.pid])


def _claim_name(run_id: str, chunk: Chunk) -> str:
    return f"cutover chunk {chunk.number} of {chunk.table} of {run_id}"


def record_copied(connection: psycopg.Connection, run_id: str, epoch: int, chunk: Chunk) -> bool:
    """Record, inside the transaction that copies a chunk, that it is copied.

    Returns:
        False when another attempt has committed the same chunk: then there is nothing left to do. While another attempt's
        transaction is open this waits for its end, up to the session's ``lock_timeout``; ``claim`` the chunk first.
    """
    return bool(
        _value(
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


def record_marker(connection: psycopg.Connection, run_id: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    """Record where the target stood at a run's go-live, once, inside a transaction that called the guard.

    Returns:
        The marker as stored: of a second call that of the first.
    """
    connection.execute(
        "INSERT INTO cutover.go_live (run_id, marker) VALUES (%s, %s) ON CONFLICT DO NOTHING", [run_id, Jsonb(marker)]
    )
    found: dict[str, Any] = _value(connection, "SELECT marker FROM cutover.go_live WHERE run_id = %s", run_id)
    return found


def _value(connection: psycopg.Connection, query: str, *positional: Any, **named: Any) -> Any:
    """The first column of the first row, None where there is no row."""
    row = connection.cursor(row_factory=tuple_row).execute(query, named or positional).fetchone()
    return row[0] if row else None
