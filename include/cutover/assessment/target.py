"""Reads the target that the plan's SQL makes from the catalog of a scratch schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from include.cutover.copying.conversion import TargetColumn
from include.cutover.target import catalog, scratch_schema
from include.cutover.target.schema import PlannedSchema


@dataclass(frozen=True)
class TargetCheck:
    """A CHECK or EXCLUDE of a table, or the CHECK of the domain of a column."""

    name: str
    table: str
    expression: str


@dataclass(frozen=True)
class TargetTable:
    """A table of the target.

    Attributes:
        name: Name of the table.
        columns: Columns in the table's order, as the copy sees them.
        details: Defaults and identity of each column.
        labels: Labels of the enumeration, by column.
        collations: Collations that are not the database's, by column.
        indexes: Indexes of the table.
        checks: CHECK constraints of the table itself.
        others: Constraints that are not translated.
        sequences: Columns that a sequence fills, with its greatest number; None where it does not ascend.
    """

    name: str
    columns: Mapping[str, TargetColumn]
    details: Mapping[str, catalog.Column]
    labels: Mapping[str, tuple[str, ...]]
    collations: Mapping[str, str]
    indexes: tuple[catalog.Index, ...]
    checks: tuple[TargetCheck, ...]
    others: tuple[TargetCheck, ...]
    sequences: Mapping[str, int | None]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Columns of the primary key; empty where there is none."""
        return next((tuple(part.column or "" for part in index.parts) for index in self.indexes if index.primary), ())


@dataclass(frozen=True)
class Target:
    """The target that the SQL files of a plan make.

    Attributes:
        tables: Tables by name.
        foreign_keys: Foreign keys of all tables.
        views: Names of views and materialised views.
        triggers: Table and name of each trigger.
        triggers_at_load: Triggers for INSERT that exist while the tables are filled.
    """

    tables: Mapping[str, TargetTable]
    foreign_keys: tuple[catalog.ForeignKey, ...]
    views: frozenset[str]
    triggers: frozenset[tuple[str, str]]
    triggers_at_load: frozenset[tuple[str, str]] = frozenset()

    @property
    def planned(self) -> PlannedSchema:
        """The same in the form that the decisions need."""
        return PlannedSchema(
            columns={table: list(made.details.values()) for table, made in self.tables.items()},
            primary_keys={table: list(made.primary_key) for table, made in self.tables.items()},
            foreign_keys=list(self.foreign_keys),
        )


def read_target(conninfo: str, sql_folder: Path) -> Target:
    """Run the plan's SQL in scratch schemas and read the catalog there; everything is rolled back.

    Raises:
        The errors of ``migrations.rehearsal``: faults in the files, a server that does not answer or cannot be the target.
    """
    with scratch_schema.build(conninfo, sql_folder) as (connection, schema):
        found = _read(connection, schema)
    if found.triggers:
        with scratch_schema.build(conninfo, sql_folder, ("pre_data", "migrations")) as (connection, schema):
            rows = connection.cursor(row_factory=tuple_row).execute(_TRIGGERS_AT_LOAD, {"schema": schema})
            found = replace(found, triggers_at_load=frozenset((table, name) for table, name in rows))
    return found


def _read(connection: psycopg.Connection, schema: str) -> Target:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.cursor(row_factory=tuple_row).execute(query.encode(), {"schema": schema}).fetchall()

    details = catalog.columns(connection, schema)
    columns: dict[str, dict[str, TargetColumn]] = {table: {} for table in details}
    labels: dict[str, dict[str, tuple[str, ...]]] = {table: {} for table in details}
    collations: dict[str, dict[str, str]] = {table: {} for table in details}
    for table, enumeration, collation, *column in rows(_COLUMNS):
        if table not in columns:
            continue
        made = TargetColumn(*column)
        columns[table][made.name] = made
        if enumeration is not None:
            labels[table][made.name] = tuple(enumeration)
        if collation is not None:
            collations[table][made.name] = collation
    indexes = catalog.indexes(connection, schema)
    checks: dict[str, list[TargetCheck]] = {table: [] for table in details}
    others: dict[str, list[TargetCheck]] = {table: [] for table in details}
    for translatable, name, table, expression in rows(_CHECKS):
        if table in checks:
            (checks if translatable else others)[table].append(TargetCheck(name, table, expression))
    largest = dict(rows(_SEQUENCES))
    sequences: dict[str, dict[str, int | None]] = {table: {} for table in details}
    for sequence in catalog.sequences(connection, schema):
        sequences[sequence.table][sequence.column] = largest[sequence.name]
    tables = {
        table: TargetTable(
            table,
            columns[table],
            {column.name: column for column in details[table]},
            labels[table],
            collations[table],
            tuple(indexes[table]),
            tuple(checks[table]),
            tuple(others[table]),
            sequences[table],
        )
        for table in details
    }
    return Target(
        tables,
        tuple(catalog.foreign_keys(connection, schema)),
        frozenset(name for (name,) in rows(_VIEWS)),
        frozenset((table, name) for table, name in rows(_TRIGGERS)),
    )


_COLUMNS = """
    WITH RECURSIVE base AS (
        SELECT class.oid AS class, class.relname, attribute.attname, attribute.attnum, attribute.attgenerated,
               attribute.attcollation, attribute.atttypid AS declared, attribute.atttypmod AS declared_modifier,
               attribute.atttypid AS type, attribute.atttypmod AS modifier, attribute.attnotnull AS not_null
        FROM pg_attribute AS attribute
        JOIN pg_class AS class ON class.oid = attribute.attrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND class.relkind IN ('r', 'p')
          AND attribute.attnum > 0 AND NOT attribute.attisdropped
        UNION ALL
        SELECT base.class, base.relname, base.attname, base.attnum, base.attgenerated, base.attcollation, base.declared,
               base.declared_modifier, domain.typbasetype, domain.typtypmod, base.not_null OR domain.typnotnull
        FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
    )
    SELECT base.relname,
           CASE WHEN type.typtype = 'e' THEN
               array(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = type.oid ORDER BY enumsortorder) END,
           CASE WHEN base.attcollation <> type.typcollation THEN
               (SELECT collname::text FROM pg_collation WHERE oid = base.attcollation) END,
           base.attname, format_type(base.declared, base.declared_modifier), type.typname::text, base.modifier,
           type.typtype = 'e', base.not_null, base.attgenerated <> ''
    FROM base
    JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
    ORDER BY base.class, base.attnum
"""

_CHECKS = """
    WITH RECURSIVE base AS (
        SELECT attribute.attrelid, attribute.attname, attribute.atttypid AS type
        FROM pg_attribute AS attribute
        JOIN pg_class AS class ON class.oid = attribute.attrelid AND class.relkind IN ('r', 'p')
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND attribute.attnum > 0 AND NOT attribute.attisdropped
        UNION ALL
        SELECT base.attrelid, base.attname, domain.typbasetype
        FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
    )
    SELECT con.contype = 'c', con.conname, class.relname,
           CASE con.contype WHEN 'c' THEN pg_get_expr(con.conbin, con.conrelid) ELSE pg_get_constraintdef(con.oid, true) END
    FROM pg_constraint AS con
    JOIN pg_class AS class ON class.oid = con.conrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND con.contype IN ('c', 'x') AND con.conparentid = 0
    UNION ALL
    SELECT false, con.conname, class.relname, base.attname || ' ' || pg_get_constraintdef(con.oid, true)
    FROM base
    JOIN pg_constraint AS con ON con.contypid = base.type AND con.contype = 'c'
    JOIN pg_class AS class ON class.oid = base.attrelid
    UNION ALL
    SELECT false, 'partitions', class.relname, 'PARTITION BY ' || pg_get_partkeydef(class.oid) || ', without a default one'
    FROM pg_partitioned_table AS part
    JOIN pg_class AS class ON class.oid = part.partrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND part.partdefid = 0 AND part.partstrat <> 'h' AND NOT class.relispartition
    ORDER BY 3, 2
"""

_SEQUENCES = """
    SELECT class.relname, CASE WHEN sequence.seqincrement > 0 THEN sequence.seqmax END
    FROM pg_sequence AS sequence
    JOIN pg_class AS class ON class.oid = sequence.seqrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s
"""

_VIEWS = """
    SELECT class.relname
    FROM pg_class AS class
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND class.relkind IN ('v', 'm')
"""

_TRIGGERS = """
    SELECT class.relname, trigger.tgname
    FROM pg_trigger AS trigger
    JOIN pg_class AS class ON class.oid = trigger.tgrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND NOT trigger.tgisinternal
"""

# As the copy checks them: every trigger for INSERT that is not disabled.
_TRIGGERS_AT_LOAD = """
    SELECT DISTINCT class.relname, trigger.tgname
    FROM pg_trigger AS trigger
    JOIN pg_class AS class ON class.oid = trigger.tgrelid
        OR trigger.tgtype & 1 > 0 AND class.oid = pg_partition_root(trigger.tgrelid)
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND NOT trigger.tgisinternal AND trigger.tgenabled <> 'D' AND trigger.tgtype & 4 > 0
"""
