"""The target's schema as a whole: read in advance, granted to the application, kept after a rollback."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from include.cutover import catalog, migrations
from include.cutover.migrations import Guard

IDENTIFIER_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1


@dataclass(frozen=True)
class PlannedSchema:
    """What the SQL files of a plan make, read from the catalog: columns and primary key per table, and the foreign keys."""

    columns: Mapping[str, list[catalog.Column]]
    primary_keys: Mapping[str, list[str]]
    foreign_keys: list[catalog.ForeignKey]


@dataclass(frozen=True)
class KeptSchema:
    """A target schema that was put aside: its new name and the rows in each of its tables."""

    name: str
    rows: Mapping[str, int]


def planned_schema(conninfo: str, sql_folder: Path) -> PlannedSchema:
    """Try the plan's SQL in a scratch schema and read the catalog there; everything is rolled back.

    Raises:
        The errors of ``migrations.rehearsal``: a fault in a file that would be applied only after the services were stopped
        shows here.
    """
    with migrations.rehearsal(conninfo, sql_folder) as (connection, schema):
        columns = catalog.columns(connection, schema)
        return PlannedSchema(
            columns=columns,
            primary_keys={table: catalog.primary_key(connection, schema, table) for table in columns},
            foreign_keys=catalog.foreign_keys(connection, schema),
        )


def kept_name(schema: str, run_id: str) -> str:
    """The name under which a rolled-back run's schema is kept: readable, unique per run, within PostgreSQL's 63 bytes."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:10]
    head = f"{schema}_rolled_back".encode()[: IDENTIFIER_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{head}_{digest}"


def keep_schema(
    conninfo: str, schema: str, run_id: str, application_role: str | None, guard: Guard | None = None
) -> KeptSchema:
    """Put the target's schema aside under a name of its own, with all its rows, and make an empty one in its place.

    The application's sessions are ended first: a session with prepared statements would go on writing into the renamed
    schema. Safe to run again: a schema that was kept already stays as it is. Everything happens in one transaction.

    Args:
        application_role: Role whose sessions are ended; None where no application logs in.

    Raises:
        Unreachable: When the server does not answer.
    """
    kept = kept_name(schema, run_id)
    with catalog.session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        connection.execute("SET LOCAL lock_timeout = '10s'")
        if application_role is not None:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = %s AND pid <> pg_backend_pid()"
                " AND usename <> current_user",
                [application_role],
            )
        exists = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [kept]).fetchone() is not None
        if not exists:
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
        return KeptSchema(kept, row_counts(connection, kept))


def row_counts(connection: psycopg.Connection, schema: str) -> dict[str, int]:
    """Rows in every table of a schema, the pipeline's own record left out."""
    counts = {}
    for table in catalog.tables(connection, schema):
        query = sql.SQL("SELECT count(*) FROM {}.{}").format(sql.Identifier(schema), sql.Identifier(table))
        row = connection.execute(query).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts


def grant_application(conninfo: str, schema: str, role: str, guard: Guard | None = None) -> None:
    """Let the application's role read and write the tables of ``schema``, and no more. Safe to run again."""
    with catalog.session(conninfo, schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
        for statement in (
            "GRANT USAGE ON SCHEMA {schema} TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
        ):
            connection.execute(sql.SQL(statement).format(**names))
        connection.execute(
            sql.SQL("REVOKE INSERT, UPDATE, DELETE ON {}.{} FROM {}").format(
                names["schema"], sql.Identifier(migrations.RECORD_TABLE), names["role"]
            )
        )
