"""Check that a session with the target keeps one server session: a pooler in transaction mode gives it another each time."""

from __future__ import annotations

import time

import psycopg

from include.cutover.preflight.answers import Answer
from include.cutover.target import waits
from include.cutover.target.session import Connection, connect

_TRIALS = 4
_WAIT_SECONDS = 5.0
_PAUSE = 0.01
_EXPECTED = "one server session for each session: a direct connection, or a pooler in session mode"
_DO = (
    "Name PostgreSQL's own host and port in the connection (often 5432 instead of the pooler's 6432), or a database of the"
    " pooler with pool_mode = session. Settings, locks and time limits of the cutover last as long as a session; in a shared"
    " one they are lost, or reach the sessions of others."
)


def own_server_session(conninfo: str, connection: Connection) -> Answer:
    """Compare the server's process behind ``connection`` before and after other sessions hold a transaction.

    In transaction mode, a process that served this session serves another one next, or this session gets another process.
    Sets nothing: in a shared session that would reach others.

    Args:
        conninfo: The target.
        connection: A session with it, in autocommit mode.

    Raises:
        psycopg.Error: When ``connection`` broke.
    """
    mine = waits.backend(connection)
    direct = connection.info.backend_pid == mine  # a pooler tells its clients a process id that it made up
    others: list[Connection] = []
    held: list[int] = []
    shared = False
    try:
        while not shared and len(held) < (1 if direct else _TRIALS):
            try:
                others.append(connect(conninfo, seconds=int(_WAIT_SECONDS)))
                others[-1].patience = _WAIT_SECONDS
                others[-1].execute("BEGIN")
                held.append(waits.backend(others[-1]))
            except psycopg.Error as error:
                return _no_other(error)
            shared = held[-1] == mine or waits.backend(connection) != mine
    finally:
        for other in others:
            other.close()
    if shared:
        return Answer("failed", _EXPECTED, "another one for each transaction: a pooler in transaction mode", _DO)
    if direct:
        _wait_until_gone(connection, held)
    return Answer("passed", _EXPECTED, "its own" if direct else "its own, through a pooler in session mode")


def _wait_until_gone(connection: Connection, processes: list[int]) -> None:
    """Wait until the server has ended sessions that were closed: the next check counts the sessions."""
    end = time.monotonic() + _WAIT_SECONDS
    query = "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)"
    while connection.execute(query, [processes]).fetchone() is not None and time.monotonic() < end:
        time.sleep(_PAUSE)


def _no_other(error: psycopg.Error) -> Answer:
    said = " ".join(str(error).split())
    if "statement pool" in said:
        return Answer("failed", _EXPECTED, "no transactions: a pooler in statement mode", _DO)
    return Answer(
        "unknown",
        _EXPECTED,
        "no second session could be opened",
        "Allow this role more sessions: the cutover needs several at a time.",
    )
