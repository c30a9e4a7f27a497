"""Finds out why a session of ours gets no answer: its commit may wait for a synchronous standby."""

from __future__ import annotations

import psycopg
from psycopg.rows import tuple_row

from include.cutover.target import session as target_session

SYNC_REP = "SyncRep"
"""The wait event of a commit that a synchronous standby has not confirmed; see "Wait Events" in PostgreSQL's manual."""

REMEDY = (
    "Start the standby, or take it out: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf(); a commit"
    " that waits ends then."
)
_LOOK_SECONDS = 5


def backend(connection: psycopg.Connection) -> int:
    """Return the process id of the server's side. A pooler gives its clients another one."""
    (pid,) = target_session.one_row(connection.cursor(row_factory=tuple_row).execute("SELECT pg_backend_pid()"))
    return int(pid)


def unconfirmed(connection: psycopg.Connection, pid: int) -> str:
    """Return which standbys a commit of that process waits for; empty when it waits for none.

    A role sees the waits of its own sessions without any further right.
    """
    query = "SELECT current_setting('synchronous_standby_names') FROM pg_stat_activity WHERE pid = %s AND wait_event = %s"
    row = connection.cursor(row_factory=tuple_row).execute(query, [pid, SYNC_REP]).fetchone()
    return "" if row is None else f"synchronous_standby_names = '{row[0]}'"


def look(conninfo: str, pid: int) -> str:
    """Return the same over a session of its own; empty also when the server does not answer in ``_LOOK_SECONDS``."""
    try:
        with target_session.connect(conninfo, seconds=_LOOK_SECONDS) as connection:
            connection.patience = _LOOK_SECONDS
            return unconfirmed(connection, pid)
    except psycopg.Error:
        return ""
