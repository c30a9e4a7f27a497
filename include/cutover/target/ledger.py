"""The ledger: schema ``cutover`` in the target, with the lease of the target and the chunks that are copied.

It lies in the database that it describes, so that a record and the rows it records commit together. A target has one lease:
only one cutover at a time may write there. Every transaction that changes the target first locks the lease's row in shared
mode (see ``guard``). Taking the lease over needs an exclusive lock on that row: when ``take_over`` returns, no transaction
of the earlier run can still commit. ``checkpoints`` keeps the chunks.

Tables: ``run`` · ``lease`` (one row) · ``chunk`` (bounds, computed once) · ``copied`` (chunks whose rows are in the target)
· ``go_live`` (state of the target right before the application was let in).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
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
"""Called first in every transaction that changes the target; raises LeaseLost when the run no longer holds the lease."""

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
class TargetLease:
    """The lease of the target: its holder alone may change the target.

    Attributes:
        run_id: The cutover that holds it; None while it is free.
        holder: The run itself, or the name under which it was taken over.
        epoch: Grows with every change of holder; never falls.
    """

    run_id: str | None
    holder: str | None
    epoch: int
    acquired_at: datetime | None


def application_name(run_id: str, step: str) -> str:
    """Return ``application_name`` for the sessions of a step: ``take_over`` finds the sessions of a run by its prefix."""
    return f"{_run_prefix(run_id)}{step}".encode("ascii", "replace")[:_NAME_BYTES].decode()


def _run_prefix(run_id: str) -> str:
    return f"{run_id[-_RUN_CHARACTERS:]}:"


def ensure(conninfo: str) -> None:
    """Create the ledger where it is missing. Safe to run again, and from several processes at once.

    Raises:
        Refused: When a schema of that name exists and is not the ledger.
    """
    with session(conninfo) as connection, connection.transaction():
        # CREATE … IF NOT EXISTS can fail when two do it at once.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cutover ledger', 0))")
        if not value(connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", SCHEMA):
            connection.execute("CREATE SCHEMA cutover")
        existing = _columns(connection)
        for table, columns in _TABLES.items():
            names = {name for name in columns if name.islower()}
            if table not in existing:
                body = ", ".join(f"{name} {definition}" for name, definition in columns.items())
                connection.execute(f"CREATE TABLE cutover.{table} ({body})")
            elif existing[table] != names:
                raise Refused(
                    "a table of this name exists and is not part of the ledger",
                    where=f"{SCHEMA}.{table}",
                    expected=f"the columns {', '.join(sorted(names))}",
                    found=", ".join(sorted(existing[table])),
                    do=f"Drop or rename the schema {SCHEMA} if no cutover needs it.",
                )
        if not value(connection, "SELECT EXISTS (SELECT FROM cutover.lease)"):
            connection.execute("INSERT INTO cutover.lease DEFAULT VALUES")


def session(conninfo: str, **settings: str) -> AbstractContextManager[target_session.Connection]:
    """Open a session for small statements: one that takes longer than a minute is blocked, not at work."""
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
    """Return the target's lease; None where there is no ledger."""
    with session(conninfo) as connection:
        if value(connection, "SELECT to_regclass('cutover.lease')") is None:
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
    with session(conninfo) as connection, connection.transaction():
        current = _read(connection)
        if current.run_id == run_id and current.holder == run_id:
            return current.epoch
        if current.run_id is not None:
            raise _held(current)
        # The row was read without a lock, so its condition is checked again under the lock of the update.
        epoch = value(
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
    """Return a check to call first in every transaction that changes the target.

    It locks the lease's row in shared mode until the transaction ends: the lease cannot be taken over between the check
    and the commit. It raises ``LeaseLost`` when the run no longer holds the lease under that epoch. The same round trip
    shows the guard on the tables, see ``write_guard``, that the transaction belongs to the run.
    """

    def check(connection: psycopg.Connection) -> None:
        if connection.autocommit and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            raise RuntimeError("the guard protects the transaction it is called in, and there is none")
        # FOR SHARE, not FOR KEY SHARE: an update of other columns than the key must wait for it.
        query = (
            "SELECT set_config('cutover.run', run_id || ':' || epoch, true) FROM cutover.lease"
            " WHERE run_id = %(run)s AND epoch = %(epoch)s FOR SHARE"
        )
        if value(connection, query, run=run_id, epoch=epoch) is None:
            raise _lost(run_id, epoch, _read(connection))

    return check


def take_over(conninfo: str, run_id: str, by: str, *, lock_seconds: float = 2.0, attempts: int = 10) -> int:
    """Take the lease for ``run_id`` from its holder, and shut the holder out.

    When this returns, every transaction that passed the old holder's guard has committed or was terminated. A client that
    was stopped in the middle of COPY cannot commit when it goes on. Safe to run again: the epoch rises each time.

    Args:
        conninfo: The target.
        run_id: The cutover that the lease is taken for.
        by: The new holder; shown to runs that lost the lease.
        lock_seconds: How long a transaction of the old holder may take to end by itself.
        attempts: How often its sessions are terminated before this gives up.

    Returns:
        The new epoch.

    Raises:
        Unreachable: When the lease's row stays locked although every session of the old holder was terminated.
    """
    ensure(conninfo)
    with session(conninfo, lock_timeout=f"{max(1, round(lock_seconds * 1000))}ms") as connection:
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
            "the lease is still locked after the sessions of its holder were ended",
            where=f"{SCHEMA}.lease",
            found=", ".join(f"pid {pid} ({name})" for pid, name in locking) or "no session now",
            do="End those sessions, then retry.",
        )


def _raise_epoch(connection: psycopg.Connection, run_id: str, by: str) -> int:
    epoch = value(
        connection,
        "UPDATE cutover.lease SET run_id = %(run)s, holder = %(by)s, epoch = epoch + 1, acquired_at = clock_timestamp() "
        "RETURNING epoch",
        run=run_id,
        by=by,
    )
    if epoch is None:
        raise Unreachable("the lease's row is missing", where=f"{SCHEMA}.lease", do="Retry.")
    return int(epoch)


def _terminate_holders(connection: psycopg.Connection) -> None:
    """End the old holder's sessions: those with its name, and all that passed a guard, under any name."""
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
    """Release the lease at the end of a run. Safe to run again: a run that no longer holds it changes nothing.

    Returns:
        True when the run held it under that epoch.
    """
    with session(conninfo) as connection, connection.transaction():
        held = value(
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
    """Raise ``LeaseLost`` when the run does not hold the lease under that epoch now.

    Nothing is committed: its lock on the lease's row would make a commit wait for a synchronous standby.
    """
    with session(conninfo) as connection, connection.transaction(force_rollback=True):
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
        "this run no longer holds the lease of the target",
        where=f"{SCHEMA}.lease",
        expected=f"{run_id} under epoch {epoch}",
        found=f"{_who(current)} under epoch {current.epoch}" if current.run_id else "a free lease",
        do="This step changed nothing; follow the run that holds the lease.",
    )


def _who(current: TargetLease) -> str:
    return f"{current.run_id}" if current.holder == current.run_id else f"{current.run_id}, taken over by {current.holder}"


def record_marker(connection: psycopg.Connection, run_id: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    """Record the state of the target at a run's go-live, once, inside a transaction that called the guard.

    Returns:
        The marker as stored: a second call returns that of the first.
    """
    connection.execute(
        "INSERT INTO cutover.go_live (run_id, marker) VALUES (%s, %s) ON CONFLICT DO NOTHING", [run_id, Jsonb(marker)]
    )
    found: dict[str, Any] = value(connection, "SELECT marker FROM cutover.go_live WHERE run_id = %s", run_id)
    return found


def value(connection: psycopg.Connection, query: str, *positional: Any, **named: Any) -> Any:
    """Return the first column of the first row; None where there is no row."""
    row = connection.cursor(row_factory=tuple_row).execute(query, named or positional).fetchone()
    return row[0] if row else None
