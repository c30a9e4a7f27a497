"""What the source is measured by: the target as the plan's SQL makes it, read from the catalog of a scratch schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from include.cutover import catalog, migrations
from include.cutover.conversion import TargetColumn
from include.cutover.errors import CannotCheck

OLDEST_VERSION = 140000


@dataclass(frozen=True)
class IndexPart:
    """One part of an index's key: a column, or an expression as PostgreSQL writes it.

    Attributes:
        column: None for an expression.
        deterministic: Whether texts that its collation calls equal are equal byte by byte.
    """

    column: str | None
    definition: str
    deterministic: bool


@dataclass(frozen=True)
class Index:
    """An index of the target.

    Attributes:
        method: ``btree``, ``gin``, ….
        predicate: Of a partial index.
        nulls_equal: ``NULLS NOT DISTINCT``.
    """

    name: str
    table: str
    parts: tuple[IndexPart, ...]
    unique: bool
    primary: bool
    method: str
    predicate: str | None
    nulls_equal: bool

    @property
    def columns(self) -> tuple[str | None, ...]:
        """Its columns; None for an expression."""
        return tuple(part.column for part in self.parts)


@dataclass(frozen=True)
class TargetCheck:
    """A CHECK or EXCLUDE of a table, or the CHECK of a domain that one of its columns has."""

    name: str
    table: str
    expression: str


@dataclass(frozen=True)
class TargetTable:
    """A table of the target.

    Attributes:
        columns: In the table's order, as the copy sees them.
        details: Defaults and identity of each.
        labels: Of the enumeration, for columns that have one.
        collations: Of columns whose collation is not the database's.
        checks: CHECK constraints of the table itself.
        others: Constraints that no translation is tried for.
        sequences: Columns that a sequence fills, with the greatest number that it gives; None where it does not ascend.
    """

    name: str
    columns: Mapping[str, TargetColumn]
    details: Mapping[str, catalog.Column]
    labels: Mapping[str, tuple[str, ...]]
    collations: Mapping[str, str]
    indexes: tuple[Index, ...]
    checks: tuple[TargetCheck, ...]
    others: tuple[TargetCheck, ...]
    sequences: Mapping[str, int | None]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Columns of the primary key; empty where there is none."""
        return next((tuple(part.column or "" for part in index.parts) for index in self.indexes if index.primary), ())


@dataclass(frozen=True)
class Target:
    """What the SQL files of a plan make.

    Attributes:
        views: Names of views and materialised views.
        triggers: Table and name of each.
    """

    tables: Mapping[str, TargetTable]
    foreign_keys: tuple[catalog.ForeignKey, ...]
    views: frozenset[str]
    triggers: frozenset[tuple[str, str]]


def read_target(conninfo: str, sql_folder: Path) -> Target:
    """Try the plan's SQL in a scratch schema and read the catalog there; everything is rolled back.

    Raises:
        CannotCheck: When the server is too old or does not store UTF-8.
        Refused: When the role may not make a schema.
        The other errors of ``migrations.rehearsal``: faults in the files, and a server that does not answer.
    """
    with catalog.session(conninfo, "public") as connection:
        _require_version(connection)
    with migrations.rehearsal(conninfo, sql_folder) as (connection, schema):
        return _read(connection, schema)


def _require_version(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
        " current_setting('server_encoding')"
    ).fetchone()
    number, name, encoding = row or (0, "", "")
    if number < OLDEST_VERSION:
        raise CannotCheck(
            "the target is too old",
            where="the target",
            expected=f"PostgreSQL {OLDEST_VERSION // 10000} or newer",
            found=f"PostgreSQL {name}",
            do="Name a newer server.",
        )
    if encoding != "UTF8":
        raise CannotCheck(
            "the target does not store text as UTF-8",
            where="the target",
            expected="server_encoding UTF8",
            found=str(encoding),
            do="Make the database with ENCODING 'UTF8' TEMPLATE template0.",
        )


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
    indexes: dict[str, list[Index]] = {table: [] for table in details}
    for name, table, names, definitions, deterministic, *rest in rows(_INDEXES):
        if table in indexes:
            parts = tuple(IndexPart(*part) for part in zip(names, definitions, deterministic, strict=True))
            indexes[table].append(Index(name, table, parts, *rest))
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

_INDEXES = """
    SELECT class.relname, owner.relname,
           array_agg(attribute.attname::text ORDER BY place),
           array_agg(pg_get_indexdef(index.indexrelid, place::int, true) ORDER BY place),
           array_agg(coalesce(coll.collisdeterministic, true) ORDER BY place),
           index.indisunique, index.indisprimary, method.amname, pg_get_expr(index.indpred, index.indrelid),
           coalesce((to_jsonb(index) ->> 'indnullsnotdistinct')::boolean, false)
    FROM pg_index AS index
    JOIN pg_class AS class ON class.oid = index.indexrelid
    JOIN pg_am AS method ON method.oid = class.relam
    JOIN pg_class AS owner ON owner.oid = index.indrelid
    JOIN pg_namespace AS namespace ON namespace.oid = owner.relnamespace
    CROSS JOIN LATERAL generate_series(1, index.indnkeyatts) AS place
    LEFT JOIN pg_attribute AS attribute
        ON attribute.attrelid = owner.oid AND attribute.attnum = index.indkey[place - 1] AND attribute.attnum > 0
    LEFT JOIN pg_collation AS coll ON coll.oid = index.indcollation[place - 1]
    WHERE namespace.nspname = %(schema)s AND NOT owner.relispartition AND NOT index.indisexclusion
    GROUP BY class.relname, owner.relname, method.amname, index.indisunique, index.indisprimary, index.indpred,
             index.indrelid, index.indexrelid, to_jsonb(index)
    ORDER BY owner.relname COLLATE "C", class.relname COLLATE "C"
"""

_CHECKS = """
    SELECT con.contype = 'c', con.conname, class.relname,
           CASE con.contype WHEN 'c' THEN pg_get_expr(con.conbin, con.conrelid) ELSE pg_get_constraintdef(con.oid, true) END
    FROM pg_constraint AS con
    JOIN pg_class AS class ON class.oid = con.conrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND con.contype IN ('c', 'x') AND con.conparentid = 0
    UNION ALL
    SELECT false, con.conname, class.relname, attribute.attname || ' ' || pg_get_constraintdef(con.oid, true)
    FROM pg_constraint AS con
    JOIN pg_attribute AS attribute ON attribute.atttypid = con.contypid
    JOIN pg_class AS class ON class.oid = attribute.attrelid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = %(schema)s AND con.contypid <> 0 AND con.contype = 'c' AND class.relkind IN ('r', 'p')
      AND attribute.attnum > 0 AND NOT attribute.attisdropped
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
