"""Tables, columns, keys, indexes and sequences of a schema, read from the target's catalog.

They are read from ``pg_catalog``, never typed into a plan. Two things are left out on purpose: the pipeline's own table
``schema_migrations``, and tables that belong to an extension. A partition is a part of its partitioned table and does not
appear by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from include.cutover.errors import CannotCheck

RECORD_TABLE = "schema_migrations"

_ON_DELETE = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it.

    Attributes:
        type: As ``format_type`` writes it, e.g. ``character varying(50)``.
        default: The default's expression; None where there is none and for generated columns.
        generated: Computed from other columns; cannot be written.
        identity: ``GENERATED … AS IDENTITY``.
        domain_of: Where the type is a domain, the type that it is made from; else empty.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    generated: bool
    identity: bool
    domain_of: str = ""

    @property
    def stored_type(self) -> str:
        """The type that values have: of a domain, the one that it is made from."""
        return self.domain_of or self.type


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key between two tables of one schema; ``on_delete`` is spelled as in SQL, e.g. ``SET NULL``."""

    name: str
    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    on_delete: str
    validated: bool


@dataclass(frozen=True)
class IndexPart:
    """One part of an index's key: a column, or an expression as PostgreSQL writes it.

    Attributes:
        column: None for an expression.
        definition: As PostgreSQL writes it, quoted where that is needed.
        deterministic: True when texts that its collation calls equal are equal byte by byte.
        collation: The index's collation as SQL has it; None where the part is compared as the column itself is.
    """

    column: str | None
    definition: str
    deterministic: bool
    collation: str | None = None


@dataclass(frozen=True)
class Index:
    """An index of a table.

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

    @property
    def columns_text(self) -> str:
        """Its columns and expressions as a person writes them: ``name, lower(email)``."""
        return ", ".join(part.column or part.definition for part in self.parts)


@dataclass(frozen=True)
class Sequence:
    """A sequence and a column that takes its values from it: by identity, by ownership (serial) or by its default."""

    name: str
    table: str
    column: str


def tables(conn: psycopg.Connection, schema: str) -> list[str]:
    """Return the names of the tables, in byte order; empty where the schema is empty or missing."""
    query = """
        SELECT class.relname
        FROM pg_class AS class
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
          AND class.relkind IN ('r', 'p')
          AND NOT class.relispartition
          AND class.relname <> %(record)s
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND objid = class.oid AND deptype = 'e'
          )
        ORDER BY class.relname COLLATE "C"
    """
    return [name for (name,) in _rows(conn, query, schema, record=RECORD_TABLE)]


def own_relations(conn: psycopg.Connection, schema: str) -> tuple[list[str], list[str]]:
    """Return the tables and views, and the sequences, that the session's role has an owner's rights to.

    Partitions and the pipeline's own record are listed; members of an extension are not.
    """
    query = """
        SELECT class.relname, class.relkind = 'S'
        FROM pg_class AS class
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
          AND class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND pg_has_role(class.relowner, 'USAGE')
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND objid = class.oid AND deptype = 'e'
          )
        ORDER BY class.relname COLLATE "C"
    """
    found = _rows(conn, query, schema)
    return [name for name, sequence in found if not sequence], [name for name, sequence in found if sequence]


def columns(conn: psycopg.Connection, schema: str) -> dict[str, list[Column]]:
    """Return the columns of every table, in the table's order."""
    found: dict[str, list[Column]] = {table: [] for table in tables(conn, schema)}
    query = """
        WITH RECURSIVE base AS (
            SELECT attribute.attrelid, attribute.attnum, attribute.atttypid AS type, attribute.atttypmod AS modifier,
                   attribute.attnotnull AS not_null, false AS is_domain
            FROM pg_attribute AS attribute
            JOIN pg_class AS class ON class.oid = attribute.attrelid
            JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
            WHERE namespace.nspname = %(schema)s AND class.relkind IN ('r', 'p')
              AND attribute.attnum > 0 AND NOT attribute.attisdropped
            UNION ALL
            SELECT base.attrelid, base.attnum, domain.typbasetype, domain.typtypmod, base.not_null OR domain.typnotnull, true
            FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
        )
        SELECT class.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), base.not_null,
               CASE WHEN attribute.attgenerated = '' THEN pg_get_expr(attrdef.adbin, attrdef.adrelid) END,
               attribute.attgenerated <> '', attribute.attidentity <> '',
               CASE WHEN base.is_domain THEN format_type(base.type, base.modifier) ELSE '' END
        FROM base
        JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
        JOIN pg_class AS class ON class.oid = base.attrelid
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (base.attrelid, base.attnum)
        LEFT JOIN pg_attrdef AS attrdef ON (attrdef.adrelid, attrdef.adnum) = (base.attrelid, base.attnum)
        ORDER BY base.attrelid, base.attnum
    """
    for table, *rest in _rows(conn, query, schema):
        if table in found:
            found[table].append(Column(*rest))
    return found


def primary_key(conn: psycopg.Connection, schema: str, table: str) -> list[str]:
    """Return the columns of the primary key in the key's order; empty where there is none."""
    query = """
        SELECT attribute.attname
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        CROSS JOIN LATERAL unnest(con.conkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (con.conrelid, key.attnum)
        WHERE namespace.nspname = %(schema)s AND class.relname = %(table)s AND con.contype = 'p'
        ORDER BY key.position
    """
    return [name for (name,) in _rows(conn, query, schema, table=table)]


def foreign_keys(conn: psycopg.Connection, schema: str) -> list[ForeignKey]:
    """Return the foreign keys of the tables, by table and name. Copies of a key on partitions are left out.

    Raises:
        CannotCheck: When one refers to another schema: the pipeline does not follow it there.
    """
    query = """
        SELECT con.conname, class.relname,
               array(SELECT attname FROM unnest(con.conkey) WITH ORDINALITY AS key (attnum, position)
                     JOIN pg_attribute AS attribute USING (attnum)
                     WHERE attribute.attrelid = con.conrelid ORDER BY position)::text[],
               referenced.relname,
               array(SELECT attname FROM unnest(con.confkey) WITH ORDINALITY AS key (attnum, position)
                     JOIN pg_attribute AS attribute USING (attnum)
                     WHERE attribute.attrelid = con.confrelid ORDER BY position)::text[],
               con.confdeltype::text, con.convalidated, referenced.relnamespace = class.relnamespace
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_class AS referenced ON referenced.oid = con.confrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND con.contype = 'f' AND con.conparentid = 0
        ORDER BY class.relname COLLATE "C", con.conname COLLATE "C"
    """
    found = []
    for name, table, own, referenced, others, on_delete, validated, same_schema in _rows(conn, query, schema):
        if not same_schema:
            raise CannotCheck(
                "a foreign key leaves the schema",
                where=f"{table}.{name}",
                expected=f"a table of the schema {schema}",
                do="Keep all tables of one application in one schema.",
            )
        found.append(ForeignKey(name, table, tuple(own), referenced, tuple(others), _ON_DELETE[on_delete], validated))
    return found


def indexes(conn: psycopg.Connection, schema: str) -> dict[str, list[Index]]:
    """Return the indexes of every table by name, with those of keys; without those of exclusion constraints."""
    found: dict[str, list[Index]] = {table: [] for table in tables(conn, schema)}
    query = """
        SELECT class.relname, owner.relname,
               array_agg(attribute.attname::text ORDER BY place),
               array_agg(pg_get_indexdef(index.indexrelid, place::int, true) ORDER BY place),
               array_agg(coalesce(coll.collisdeterministic, true) ORDER BY place),
               array_agg(CASE WHEN coll.oid IS DISTINCT FROM attribute.attcollation THEN coll.oid::regcollation::text END
                         ORDER BY place),
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
    for name, table, columns, definitions, deterministic, collations, *rest in _rows(conn, query, schema):
        if table in found:
            parts = map(IndexPart, columns, definitions, deterministic, collations)
            found[table].append(Index(name, table, tuple(parts), *rest))
    return found


def sequences(conn: psycopg.Connection, schema: str) -> list[Sequence]:
    """Return every column that takes its values from a sequence, by table and column.

    A shared sequence appears once per column. A sequence that no column uses is left out.

    Raises:
        CannotCheck: When such a sequence lies in another schema.
    """
    query = """
        WITH use AS (
            SELECT objid AS sequence, refobjid AS relation, refobjsubid AS attnum
            FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
              AND refobjsubid > 0 AND deptype IN ('a', 'i')
            UNION
            SELECT depend.refobjid, attrdef.adrelid, attrdef.adnum
            FROM pg_depend AS depend
            JOIN pg_attrdef AS attrdef ON attrdef.oid = depend.objid
            WHERE depend.classid = 'pg_attrdef'::regclass AND depend.refclassid = 'pg_class'::regclass
        )
        SELECT sequence.relname, class.relname, attribute.attname, sequence.relnamespace = class.relnamespace
        FROM use
        JOIN pg_class AS sequence ON sequence.oid = use.sequence AND sequence.relkind = 'S'
        JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (use.relation, use.attnum)
        JOIN pg_class AS class ON class.oid = use.relation
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s
        ORDER BY class.relname COLLATE "C", attribute.attname COLLATE "C", sequence.relname COLLATE "C"
    """
    known = set(tables(conn, schema))
    found = []
    for name, table, column, same_schema in _rows(conn, query, schema):
        if table not in known:
            continue
        if not same_schema:
            raise CannotCheck(
                "a column takes its values from a sequence of another schema",
                where=f"{table}.{column}",
                expected=f"a sequence of the schema {schema}",
                found=name,
                do="Keep all sequences of one application in its schema.",
            )
        found.append(Sequence(name, table, column))
    return found


def invalid_indexes(conn: psycopg.Connection, schema: str) -> list[str]:
    """Return the names of indexes that PostgreSQL does not use: a failed build left them."""
    query = """
        SELECT class.relname
        FROM pg_index AS index
        JOIN pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND NOT (index.indisvalid AND index.indisready)
        ORDER BY class.relname COLLATE "C"
    """
    return [name for (name,) in _rows(conn, query, schema)]


def unvalidated_constraints(conn: psycopg.Connection, schema: str) -> list[str]:
    """Return ``table.constraint`` of every constraint, of any kind, that is NOT VALID for existing rows."""
    return [f"{table}.{name}" for table, name in not_valid(conn, schema)]


def not_valid(conn: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    """Return ``unvalidated_constraints`` as pairs of table and constraint."""
    query = """
        SELECT class.relname, con.conname
        FROM pg_constraint AS con
        JOIN pg_class AS class ON class.oid = con.conrelid
        JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = %(schema)s AND NOT con.convalidated
        ORDER BY class.relname COLLATE "C", con.conname COLLATE "C"
    """
    return [(table, name) for table, name in _rows(conn, query, schema)]


def _rows(conn: psycopg.Connection, query: str, schema: str, **values: str) -> list[tuple[Any, ...]]:
    """Return rows as tuples, independent of the row factory of the caller's connection."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), {"schema": schema, **values}).fetchall()
