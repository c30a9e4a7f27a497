"""Read-only sessions with the target, and the problems that keep a query from running."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import psycopg

from include.cutover.target import session as target_session

_RELATIONS = """
SELECT c.relname, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""


_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


@contextlib.contextmanager
def session(conninfo: str, schema: str, *, seconds: float) -> Iterator[target_session.Connection]:
    """Open a session that cannot write, in which unqualified names mean ``schema``.

    Args:
        conninfo: libpq connection string.
        schema: The application's schema.
        seconds: How long one statement may take.

    Raises:
        Unreachable: When the server does not answer, refuses the log-in or ends the session.
    """
    settings = {
        "statement_timeout": f"{int(seconds * 1000)}ms",
        "default_transaction_read_only": "on",
        # A policy would hide rows from a count silently; with this the query fails instead.
        "row_security": "off",
    }
    with target_session.session(conninfo, schema, settings=settings) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


@contextlib.contextmanager
def reading(conninfo: str, schema: str, *, seconds: float) -> Iterator[target_session.Connection]:
    """Open one read-only transaction that sees one moment, rolled back at the end; otherwise as ``session``."""
    with session(conninfo, schema, seconds=seconds) as connection, connection.transaction(force_rollback=True):
        yield connection


def query_problem(error: psycopg.Error) -> str:
    """Return why a query failed, without the values it was about."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return "the query reached its time limit"
    return target_session.primary_message(error)


def relation_problem(connection: psycopg.Connection, schema: str, tables: Collection[str]) -> dict[str, str]:
    """Return the names among ``tables`` that are not tables of the schema, each with its kind."""
    kinds: dict[str, str] = dict(connection.execute(_RELATIONS, [schema]).fetchall())
    problems = {}
    for table in tables:
        if table not in kinds:
            problems[table] = f"no such table in schema {schema}"
        elif kinds[table] in _KINDS:
            problems[table] = f"{_KINDS[kinds[table]]}, not a table"
    return problems
