"""What makes a loaded schema whole: foreign keys validated, sequences past the keys, statistics. And its taking back.

Every transaction that changes something calls the guard first, and all of a function's changes of one object commit or
roll back together: a process that is killed leaves a state from which the same call goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import psycopg
from psycopg import errors, sql

from include.cutover.errors import StepFailed, WrongData
from include.cutover.target import catalog, orphans
from include.cutover.target import session as target_session
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.session import session
from include.cutover.target.sql_files import Guard

log = logging.getLogger(__name__)

SHOWN_KEYS = 5


def row_counts(conninfo: str, schema: str, tables: Iterable[str]) -> dict[str, int]:
    """Rows of each of these tables, counted in one snapshot."""
    with session(conninfo, schema) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            counts = {}
            for table in tables:
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
                row = connection.execute(query).fetchone()
                counts[table] = int(row[0]) if row else 0
            return counts


def validate_foreign_keys(
    conninfo: str, schema: str, guard: Guard | None = None, *, secret: Mapping[str, Collection[str]]
) -> list[ForeignKey]:
    """Let PostgreSQL hold the loaded rows to every constraint that is NOT VALID, and return the foreign keys.

    Reads and writes go on meanwhile. Safe to run twice: what is valid is not validated again. Each constraint is a
    transaction of its own, and one that does not hold does not keep the others from being tried.

    Args:
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        guard: Called in each transaction first; see the module.
        secret: Columns per table whose content is never shown, not even as a key.

    Raises:
        WrongData: Naming every constraint that rows violate, with their number and the first of their primary keys.
        StepFailed: When PostgreSQL refuses for another reason, or a constraint is still NOT VALID afterwards.
    """
    violated = []
    with session(conninfo, schema) as connection:
        keys = {(key.table, key.name): key for key in catalog.foreign_keys(connection, schema)}
        for table, name in catalog.not_valid(connection, schema):
            try:
                with connection.transaction():
                    if guard is not None:
                        guard(connection)
                    connection.execute(
                        sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                            sql.Identifier(schema, table), sql.Identifier(name)
                        )
                    )
            except errors.ForeignKeyViolation:
                violated.append(_orphans(connection, schema, keys[table, name], secret.get(table, ())))
            except (errors.CheckViolation, errors.NotNullViolation):
                violated.append(f"{name} of {table}: rows that do not hold to it")
            except psycopg.Error as error:
                raise target_session.as_cutover_error(error, f"{table}.{name}") from None
        if violated:
            raise WrongData(
                "rows violate constraints of the target",
                where=f"schema {schema}",
                found="; ".join(violated),
                do="Do not go live. Decide about these rows in the source or in the plan, then run the cutover again.",
            )
        left = catalog.unvalidated_constraints(connection, schema)
        if left:
            raise StepFailed("constraints are still NOT VALID", where=f"schema {schema}", found=", ".join(left))
        return catalog.foreign_keys(connection, schema)


def _orphans(connection: psycopg.Connection, schema: str, key: ForeignKey, secret: Collection[str]) -> str:
    """Return one clause about the orphans of a foreign key: their number and primary keys, nothing else of the rows."""
    count, found = orphans.in_target(connection, schema, key, secret=secret, limit=SHOWN_KEYS, primary_key_only=True)
    text = f"{key.name}: {count:,} orphan{'' if count == 1 else 's'} in {key.table} ({', '.join(key.columns)})"
    shown = [orphans.row_name(row) for row in found]
    return f"{text}, {'first ' if count > len(shown) else ''}with {' / '.join(shown)}" if shown else text


def analyze(conninfo: str, schema: str, guard: Guard | None = None) -> None:
    """Gather the planner's statistics of every table, each in a transaction of its own. Safe to run twice.

    Raises:
        StepFailed: When PostgreSQL left a table out; it only warns about that.
    """
    warnings: list[str] = []
    with session(conninfo, schema) as connection:
        connection.add_notice_handler(
            lambda notice: (
                warnings.append(notice.message_primary or "") if notice.severity_nonlocalized == "WARNING" else None
            )
        )
        for table in catalog.tables(connection, schema):
            with connection.transaction():
                if guard is not None:
                    guard(connection)
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table)))
    if warnings:
        raise StepFailed("statistics were not gathered for every table", where=f"schema {schema}", found="; ".join(warnings))
