"""The constraints of a loaded schema that are NOT VALID, validated against its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import psycopg
from psycopg import errors, sql

from include.cutover.errors import StepFailed, WrongData
from include.cutover.target import catalog, lock_holders, orphans
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.ledger import Guard
from include.cutover.target.session import as_cutover_error, session

SHOWN_KEYS = 5


def validate_foreign_keys(
    conninfo: str, schema: str, guard: Guard | None = None, *, secret: Mapping[str, Collection[str]]
) -> list[ForeignKey]:
    """Validate every constraint that is NOT VALID, and return the foreign keys.

    Reads and writes go on meanwhile. Safe to run again: a valid constraint is not validated again. Each constraint has a
    transaction of its own, which calls the guard first; one that does not hold does not stop the others.

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
                violated.append(f"{name} of {table}: rows that violate it")
            except psycopg.Error as error:
                holders = lock_holders.of_error(connection, schema, error)
                raise as_cutover_error(error, f"{table}.{name}", holders) from None
        if violated:
            raise WrongData(
                "rows violate constraints of the target",
                where=f"schema {schema}",
                found="; ".join(violated),
                do="Do not go live. Decide about these rows in the source or in the plan, then run the cutover again.",
            )
        left = catalog.unvalidated_constraints(connection, schema)
        if left:
            raise StepFailed(
                "constraints are still NOT VALID",
                where=f"schema {schema}",
                found=", ".join(left),
                do="Read the server's log, then run the step again.",
            )
        return catalog.foreign_keys(connection, schema)


def _orphans(connection: psycopg.Connection, schema: str, key: ForeignKey, secret: Collection[str]) -> str:
    """Return one clause about the orphans of a foreign key: their number and primary keys, nothing else of the rows."""
    count, found = orphans.in_target(connection, schema, key, secret=secret, limit=SHOWN_KEYS, primary_key_only=True)
    text = f"{key.name}: {count:,} orphan{'' if count == 1 else 's'} in {key.table} ({', '.join(key.columns)})"
    shown = [orphans.row_name(row) for row in found]
    return f"{text}, {'first ' if count > len(shown) else ''}with {' / '.join(shown)}" if shown else text
