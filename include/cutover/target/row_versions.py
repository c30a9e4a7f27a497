"""Which rows of the target were written since a position, by the number of the transaction that wrote each (``xmin``).

``xmin`` holds the lower 32 of a transaction's 64 bits; the others follow, because all rows of the target are younger than
the cutover. Freezing, VACUUM FULL and CLUSTER keep it, and every INSERT, UPDATE and COPY sets it, whatever role writes and
whatever triggers are disabled. Deletions leave no row: they show in the number of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from include.cutover.errors import CannotCheck
from include.cutover.target.session import one_row

MOST_TRANSACTIONS = 2**31
SMALLEST_XID = 3  # PostgreSQL's own tools write smaller numbers

FOLLOWING: LiteralString = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"
"""SQL for the first transaction that has not begun, in all 64 bits."""

NUMBER: LiteralString = f"({FOLLOWING} - (({FOLLOWING} - whole.xmin::text::bigint) & 4294967295))"
"""SQL for the transaction that wrote a row of ``whole``: the next one, less the distance between their lower 32 bits."""


@dataclass(frozen=True)
class Position:
    """A moment of the target.

    Attributes:
        since: Rows of this transaction and all later ones may be younger than the moment.
        following: The first transaction that had not begun.
        snapshot: PostgreSQL's ``pg_snapshot`` as text.
        server: Its system identifier; empty where the role may not see it.
        at: The server's time.
    """

    since: int
    following: int
    snapshot: str
    server: str
    at: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for the evidence; ``Position(**fields)`` reads it again."""
        return asdict(self)


DIGEST: LiteralString = "coalesce(sum({}), 0) || ' ' || coalesce(sum({}), 0)".format(
    *(f"('x' || substr(md5((whole.*)::text), {at}, 16))::bit(64)::bigint::numeric" for at in (1, 17))
)
"""SQL for a digest of all rows of ``whole`` in whatever order: the sums of the two halves of the rows' MD5."""


@dataclass(frozen=True)
class Versions:
    """The rows of a table, and how many of them were written since a position."""

    rows: int
    written: int


# Transactions of this database that hold a number now. One that ended since the snapshot is seen by every later reader.
_OPEN = """
    SELECT lock.transactionid::text::bigint
    FROM pg_locks AS lock
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
    LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = lock.transactionid
    LEFT JOIN pg_database AS own ON own.datname = current_database()
    WHERE lock.locktype = 'transactionid' AND lock.mode = 'ExclusiveLock' AND lock.granted
      AND lock.pid IS DISTINCT FROM pg_backend_pid()
      AND coalesce(activity.datid = own.oid, prepared.database = own.datname, true)
"""


def position(connection: psycopg.Connection) -> Position:
    """Return the position of now: whatever commits later and was not seen by a reader that begins after this is younger.

    A transaction that is open in this database now may write later under a number of an earlier savepoint; such numbers are
    not in a snapshot. So the position begins with the oldest open transaction.

    Args:
        connection: In a transaction of READ COMMITTED that has written nothing, or in autocommit mode.
    """
    row = one_row(connection.execute("SELECT pg_current_snapshot()::text, clock_timestamp()::text"))
    following = int(row[0].split(":")[1])
    # An open transaction may have a number beyond the snapshot's end, which is that of the last one that ended.
    distances = [(number - following + 2**31) % 2**32 - 2**31 for (number,) in connection.execute(_OPEN)]
    return Position(following + min([0, *distances]), following, row[0], server_identifier(connection), row[1])


def secure(connection: psycopg.Connection) -> None:
    """Commit a transaction, so that no number up to now is given out again after a crash of the server.

    PostgreSQL recovers its next number from the write-ahead log, and a transaction that wrote nothing there leaves no trace.

    Args:
        connection: In autocommit mode.
    """
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        connection.execute("SELECT pg_logical_emit_message(true, 'cutover', '')")


def require_same_server(connection: psycopg.Connection, server: str, since: int, *, moment: str, do: str) -> None:
    """Refuse to compare with a position of another server, of a later time, or of too many transactions ago.

    Args:
        connection: A session with the target.
        server: The system identifier of the position; empty where it is not known.
        since: The transaction with which the position begins.
        moment: Of the position, for the error: "the proof".
        do: The reader's next step.

    Raises:
        CannotCheck: When one of these is so.
    """
    passed = int(one_row(connection.execute(f"SELECT {FOLLOWING}"))[0]) - since
    found = server_identifier(connection)
    problem = ""
    if server and found and server != found:
        problem = f"the database is on another server than at {moment}"
    elif passed < 0:
        problem = f"the server was restored to a time before {moment}"
    elif passed >= MOST_TRANSACTIONS:
        problem = f"{passed:,} transactions have passed since {moment}, too many to tell them apart"
    if problem:
        raise CannotCheck(f"the target cannot be compared with its state at {moment}", found=problem, do=do)


def count(
    tables: Collection[str],
    schema: str,
    since: Position,
    reading: Callable[[], AbstractContextManager[psycopg.Connection]],
    *,
    workers: int = 2,
) -> Mapping[str, Versions]:
    """Count the rows of each table, and those written since, in one scan each.

    Args:
        tables: Their names.
        schema: Their schema.
        since: The position.
        reading: Opens a session in a transaction that reads.
        workers: Sessions at once.

    Raises:
        psycopg.Error: When a table cannot be read.
    """
    written = sql.SQL(f"NOT (whole.xmin::text::bigint >= {SMALLEST_XID} AND {NUMBER} < {{since}})").format(
        since=sql.Literal(since.since)
    )
    shares = [list(tables)[at::workers] for at in range(workers)]

    def of(share: list[str]) -> dict[str, Versions]:
        found = {}
        if share:
            with reading() as connection:
                for table in share:
                    query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE {}) FROM {} AS whole").format(
                        written, sql.Identifier(schema, table)
                    )
                    found[table] = Versions(*one_row(connection.execute(query)))
        return found

    with ThreadPoolExecutor(workers, thread_name_prefix="row-versions") as pool:
        return {table: one for part in pool.map(of, shares) for table, one in part.items()}


def digests(
    tables: Collection[str], schema: str, reading: Callable[[], AbstractContextManager[psycopg.Connection]]
) -> dict[str, tuple[int, str]]:
    """Return the number of rows of each table and a digest of their content, in one scan each.

    Equal content has an equal digest in sessions with the same settings, whatever transaction wrote it.

    Args:
        tables: Their names.
        schema: Their schema.
        reading: Opens a session in a transaction that reads.

    Raises:
        psycopg.Error: When a table cannot be read.
    """
    found = {}
    if tables:
        with reading() as connection:
            for table in tables:
                name = sql.Identifier(schema, table)
                query = sql.SQL("SELECT count(*), {} FROM {} AS whole").format(sql.SQL(DIGEST), name)
                rows, digest = one_row(connection.execute(query))
                found[table] = (int(rows), str(digest))
    return found


def server_identifier(connection: psycopg.Connection) -> str:
    """Return the server's system identifier; empty where the role may not see it."""
    with contextlib.suppress(errors.InsufficientPrivilege), connection.transaction():
        row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        return str(row[0]) if row else ""
    return ""
