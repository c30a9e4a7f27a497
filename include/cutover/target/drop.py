"""Drops the objects that this run made in the target, as long as its tables are empty."""

from __future__ import annotations

import logging

import psycopg
from psycopg import errors, sql

from include.cutover.errors import Refused
from include.cutover.target import catalog
from include.cutover.target.ledger import Guard
from include.cutover.target.session import primary_message, session
from include.cutover.target.sql_runner import applied, hold_runner_lock, objects

log = logging.getLogger(__name__)

# Another object needs it, it was dropped with another, or DROP has no such word: a "statistics object" goes with its table.
_NOT_YET = (
    errors.DependentObjectsStillExist,
    errors.UndefinedObject,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.SyntaxError,
)


def drop_empty_schema_objects(conninfo: str, schema: str, run_id: str, guard: Guard | None = None) -> list[str]:
    """Drop the objects that the run's SQL files made in the schema, and return the names of the dropped tables.

    Only in a schema that this run made from the first file on. Where an earlier run applied files, nothing is dropped and
    the list is empty: the next run can use those tables. Atomic, in one transaction. Safe to run again.

    Args:
        conninfo: The target.
        schema: The plan's target schema.
        run_id: Only files that this run applied count.
        guard: Called first in the transaction.

    Raises:
        Refused: When one of the tables holds a row, or an object that the run did not make depends on one. Nothing was
            dropped.
    """
    with session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        hold_runner_lock(connection, schema)
        records = applied(connection, schema)
        others = sorted({record.run_id for record in records if record.run_id != run_id})
        if others or not records:
            log.info("nothing to drop in schema %s: its tables were created by %s", schema, ", ".join(others) or "no run")
            return []
        record_table = sql.Identifier(schema, catalog.RECORD_TABLE)
        made = {
            text
            for (text,) in connection.execute(
                sql.SQL("SELECT DISTINCT unnest(made) FROM {}").format(record_table)
            ).fetchall()
        }
        tables = [table for table in catalog.tables(connection, schema) if _as_object(connection, schema, table) in made]
        _refuse_rows(connection, schema, tables)
        drop_objects(connection, schema, made)
        connection.execute(sql.SQL("DROP TABLE {}").format(record_table))
        return tables


def _as_object(connection: psycopg.Connection, schema: str, table: str) -> str:
    row = connection.execute(
        "SELECT type || ' ' || identity FROM pg_identify_object('pg_class'::regclass, %s::regclass, 0)",
        [sql.Identifier(schema, table).as_string(connection)],
    ).fetchone()
    return "" if row is None else str(row[0])


def _refuse_rows(connection: psycopg.Connection, schema: str, tables: list[str]) -> None:
    """Lock the tables, so that no row can be added after this check, and refuse when one holds rows."""
    filled = []
    for table in tables:
        name = sql.Identifier(schema, table)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
        if connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(name)).fetchone() is not None:
            filled.append(table)
    if filled:
        raise Refused(
            "tables that this run created hold rows",
            where=f"schema {schema}",
            expected="empty tables",
            found=f"rows in {', '.join(filled)}",
            do="Check the rows; drop the tables by hand if they are not needed.",
        )


def drop_objects(connection: psycopg.Connection, schema: str, made: set[str]) -> None:
    """Drop these objects without CASCADE: in rounds, as one may depend on another.

    Raises:
        Refused: When an object beside them depends on one of them.
    """
    while left := objects(connection, schema) & made:
        tables = sorted(item.removeprefix("table ") for item in left if item.startswith("table "))
        # Tables go together: foreign keys may form circles. The texts come from PostgreSQL's catalog, quoted.
        rest = sorted(item for item in left if not item.startswith("table "))
        statements = [f"DROP TABLE {', '.join(tables)}"] if tables else []
        statements += [f"DROP {item}" for item in rest]
        problems = []
        for statement in statements:
            try:
                with connection.transaction():
                    connection.execute(statement.encode())
            except _NOT_YET as error:
                # Its DETAIL names the dependent objects, not rows.
                problems.append((error.diag.message_detail or primary_message(error)).replace("\n", ", "))
        if objects(connection, schema) & made == left:
            raise Refused(
                "other objects depend on the tables of this run",
                where=f"schema {schema}",
                found=problems[0],
                do="Find in psql (\\d+) the dependent objects; drop them first, or keep the tables.",
            )
