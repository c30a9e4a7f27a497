"""Numbers of rows in the target."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from include.cutover.target import catalog
from include.cutover.target.session import session


def of_tables(conninfo: str, schema: str, tables: Iterable[str]) -> dict[str, int]:
    """Count the rows of each of these tables, in one snapshot."""
    with session(conninfo, schema) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            counts = {}
            for table in tables:
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
                row = connection.execute(query).fetchone()
                counts[table] = int(row[0]) if row else 0
            return counts


def of_schema(connection: psycopg.Connection, schema: str) -> dict[str, int]:
    """Count the rows of every table of a schema, without the pipeline's own record."""
    counts = {}
    for table in catalog.tables(connection, schema):
        query = sql.SQL("SELECT count(*) FROM {}.{}").format(sql.Identifier(schema), sql.Identifier(table))
        row = connection.execute(query).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts
