"""Names who holds a schema's tables: sessions, and prepared transactions, which have no session and end only by hand.

In ``pg_locks`` a prepared transaction has no ``pid``; its locks share the ``virtualtransaction`` of the lock on its number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import errors, sql

from include.cutover.errors import Unreachable

READERS = ("AccessShareLock", "RowShareLock")
"""Modes of locks that keep no writer out."""

END_IT = (
    "End that session; a prepared transaction ends with ROLLBACK PREPARED or COMMIT PREPARED, in its database. Then retry."
)

_PREPARED: LiteralString = """
    'prepared transaction ' || quote_literal(prepared.gid) || ' of ' || prepared.owner
        || ' in database ' || quote_ident(prepared.database) || ', '
        || justify_interval(date_trunc('second', now() - prepared.prepared)) || ' old'
"""


@dataclass(frozen=True)
class Prepared:
    """A prepared transaction of the session's database.

    Attributes:
        text: Its name, owner, database and age.
        do: The statements that end it.
        seconds: Since it was prepared.
        concerns: It locks something of the schema, of the ledger or of the catalog, or nothing that can be seen.
    """

    text: str
    do: str
    seconds: float
    concerns: bool


def holders(connection: psycopg.Connection, schema: str, harmless: Collection[str] = READERS) -> list[str]:
    """Return the other sessions and the prepared transactions that hold a lock on a relation of the schema.

    Args:
        connection: Any session with the target; its own locks are left out.
        schema: The schema.
        harmless: Modes of locks that are left out.
    """
    query = f"""
        SELECT DISTINCT coalesce({_PREPARED},
            'pid ' || lock.pid || coalesce(', ' || activity.usename, '')
                || coalesce(' (' || nullif(activity.application_name, '') || ')', ''))
            || ', ' || lock.mode || ' on ' || class.relname
        FROM pg_locks AS lock
        JOIN pg_class AS class ON class.oid = lock.relation
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace AND namespace.nspname = %s
        LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
        LEFT JOIN pg_locks AS own
            ON lock.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
            AND own.virtualtransaction = lock.virtualtransaction
        LEFT JOIN pg_prepared_xacts AS prepared ON prepared.transaction = own.transactionid
        WHERE lock.granted AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND lock.mode <> ALL (%s) AND lock.pid IS DISTINCT FROM pg_backend_pid()
    """  # noqa: S608  # a constant
    rows = connection.execute(query.encode(), [schema, list(harmless)])
    return sorted(text for (text,) in rows if text is not None)


def of_error(connection: psycopg.Connection, schema: str, error: psycopg.Error) -> list[str]:
    """Return the holders after a lock was not granted; empty after another error, or where they cannot be read.

    Args:
        connection: The session of the error, with no transaction open.
        schema: The schema.
        error: As it was raised.
    """
    if isinstance(error, errors.LockNotAvailable):
        with contextlib.suppress(psycopg.Error):
            return holders(connection, schema, ())
    return []


def prepared(connection: psycopg.Connection, schema: str) -> list[Prepared]:
    """Return the prepared transactions of this database, the oldest first.

    Args:
        connection: A session with it.
        schema: The plan's target schema; need not exist.
    """
    # Objects that a prepared transaction created are not in the catalog yet, and a GRANT leaves no lock on any relation.
    query = f"""
        SELECT prepared.gid, {_PREPARED}, extract(epoch FROM now() - prepared.prepared)::float8,
               coalesce(bool_or(lock.locktype <> 'relation' OR class.oid IS NULL OR namespace.nspname = ANY (%s)), true)
        FROM pg_prepared_xacts AS prepared
        LEFT JOIN pg_locks AS own
            ON own.pid IS NULL AND own.locktype = 'transactionid' AND own.transactionid = prepared.transaction
        LEFT JOIN pg_locks AS lock
            ON lock.pid IS NULL AND lock.virtualtransaction = own.virtualtransaction
            AND lock.locktype IN ('relation', 'object', 'tuple', 'page', 'extend')
        LEFT JOIN pg_class AS class ON class.oid = lock.relation
        LEFT JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE prepared.database = current_database()
        GROUP BY prepared.gid, prepared.owner, prepared.database, prepared.prepared
        ORDER BY prepared.prepared, prepared.gid
    """  # noqa: S608  # a constant
    rows = connection.execute(query.encode(), [[schema, "cutover", "pg_catalog"]])
    return [Prepared(text, _ends(connection, gid), seconds, concerns) for gid, text, seconds, concerns in rows]


def require_none_prepared(connection: psycopg.Connection, schema: str) -> None:
    """Refuse a target on which a prepared transaction may still change the tables, or holds them.

    It could be committed after everything was compared, and no end of a session ends it.

    Raises:
        Unreachable: When there is one; names it, and the statements that end it.
    """
    found = [one for one in prepared(connection, schema) if one.concerns]
    if found:
        raise Unreachable(
            "a prepared transaction can still change the target, or holds its tables",
            where=f"schema {schema}",
            expected="no prepared transaction that concerns it",
            found="; ".join(one.text for one in found),
            do=f"As its owner or a superuser: {' '.join(one.do for one in found)} Then retry.",
        )


def _ends(connection: psycopg.Connection, gid: str) -> str:
    name = sql.Literal(gid).as_string(connection)
    return f"ROLLBACK PREPARED {name}; or COMMIT PREPARED {name}; in that database."
