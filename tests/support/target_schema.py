"""SQL in the schema ``app`` of a target, and a guard whose run lost the lease."""

from __future__ import annotations

from typing import Any

import psycopg

from include.cutover.errors import LeaseLost


def prepare(conninfo: str, text: str) -> None:
    """Run SQL with the schema ``app`` as search_path."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS app")
        connection.execute("SET search_path = app")
        connection.execute(text.encode())


def ask(conninfo: str, query: str) -> Any:
    """Return the first column of the first row."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET search_path = app")
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def lost(_: psycopg.Connection) -> None:
    """Refuse, as the guard of a run without the lease does."""
    raise LeaseLost("another run took over")
