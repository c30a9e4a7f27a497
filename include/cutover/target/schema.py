"""The target's schema as a whole: planned, locked against writers, and set aside at a rollback."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import errors, sql

from include.cutover.errors import Unreachable
from include.cutover.target import catalog, lock_holders, row_counts, scratch_schema
from include.cutover.target.ledger import Guard
from include.cutover.target.session import session

log = logging.getLogger(__name__)

IDENTIFIER_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1


@dataclass(frozen=True)
class PlannedSchema:
    """The schema that a plan's SQL makes: columns and primary key of each table, and the foreign keys."""

    columns: Mapping[str, list[catalog.Column]]
    primary_keys: Mapping[str, list[str]]
    foreign_keys: list[catalog.ForeignKey]


@dataclass(frozen=True)
class KeptSchema:
    """A target schema that was set aside: its new name and the rows in each of its tables."""

    name: str
    rows: Mapping[str, int]


def planned_schema(conninfo: str, sql_folder: Path) -> PlannedSchema:
    """Run the plan's SQL in a scratch schema, read the catalog there, and roll back.

    Raises:
        The errors of ``scratch_schema.build``: they show faults in files that are applied only after the services stop.
    """
    with scratch_schema.build(conninfo, sql_folder) as (connection, schema):
        columns = catalog.columns(connection, schema)
        return PlannedSchema(
            columns=columns,
            primary_keys={table: catalog.primary_key(connection, schema, table) for table in columns},
            foreign_keys=catalog.foreign_keys(connection, schema),
        )


def kept_name(schema: str, run_id: str) -> str:
    """Return the name of a rolled-back run's schema: readable, unique per run, within PostgreSQL's 63 bytes."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:10]
    head = f"{schema}_rolled_back".encode()[: IDENTIFIER_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{head}_{digest}"


def lock_tables(
    connection: psycopg.Connection,
    schema: str,
    mode: Literal["SHARE", "SHARE ROW EXCLUSIVE"] = "SHARE",
    *,
    attempts: int = 1,
) -> None:
    """Wait for transactions that write to a table of the schema; keep writers out until this transaction ends.

    Readers are let in. With SHARE ROW EXCLUSIVE, which one session at a time can hold, the tables' structure cannot be
    changed by others either; VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY are waited for as well. A table of another owner
    is not changed.

    Args:
        connection: In a transaction.
        schema: The plan's target schema.
        mode: The lock.
        attempts: Each lasts as long as the session's ``lock_timeout``; the log names the holders after each.

    Raises:
        Unreachable: When such a transaction does not end in that time; names it.
    """
    own, _ = catalog.own_relations(connection, schema)
    names = [name for name in catalog.tables(connection, schema) if name in own]
    if not names:
        return
    statement = sql.SQL("LOCK TABLE {} IN {} MODE").format(
        sql.SQL(", ").join(sql.Identifier(schema, name) for name in names), sql.SQL(mode)
    )
    found = ""
    for attempt in range(1, attempts + 1):
        try:
            with connection.transaction():
                connection.execute(statement)
            return
        except errors.LockNotAvailable:
            harmless = (*lock_holders.READERS, *(["ShareLock"] if mode == "SHARE" else []))
            found = "; ".join(lock_holders.holders(connection, schema, harmless)) or "no such transaction now"
            log.warning("waiting for a lock on the tables of %s, attempt %d of %d: %s", schema, attempt, attempts, found)
    raise Unreachable(
        "another transaction is writing to the target",
        where=f"schema {schema}",
        expected="no open transaction that wrote to its tables",
        found=found,
        do=lock_holders.END_IT,
    )


def exists(conninfo: str, schema: str) -> bool:
    """Report whether the target has a schema of that name.

    Raises:
        Unreachable: When the server does not answer.
    """
    with session(conninfo, schema) as connection:
        return connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is not None


def keep_schema(
    conninfo: str,
    schema: str,
    run_id: str,
    guard: Guard | None = None,
    before: Callable[[psycopg.Connection], object] | None = None,
) -> KeptSchema:
    """Set the target's schema aside under a new name, with all its rows, and make an empty one in its place.

    Shut the application out first (see ``fence``): a rename waits for no session, and a session with prepared
    statements would go on writing into the renamed schema. Transactions of others that write are waited for. Atomic, in one
    transaction. Safe to run again: a schema that was set aside stays as it is.

    Args:
        conninfo: The target.
        schema: The plan's target schema.
        run_id: Makes the new name.
        guard: Called first in the transaction.
        before: Called in the transaction when nothing can be written and the schema still has its name.

    Raises:
        Unreachable: When the server does not answer, or a transaction on these tables does not end.
    """
    kept = kept_name(schema, run_id)
    with session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        exists = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [kept]).fetchone() is not None
        if not exists:
            lock_tables(connection, schema)
            if before is not None:
                before(connection)
            owner = connection.execute(
                "SELECT pg_get_userbyid(nspowner), has_schema_privilege('public', oid, 'USAGE')"
                " FROM pg_namespace WHERE nspname = %s",
                [schema],
            ).fetchone()
            if owner is not None:
                connection.execute(
                    sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(schema), sql.Identifier(kept))
                )
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            if owner is not None and owner[1]:
                connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(sql.Identifier(schema)))
        return KeptSchema(kept, row_counts.of_schema(connection, kept))
