"""Rows for the write proof: an existing one that no other refers to, or one that is made up from a table's columns."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

_CANDIDATES = 200
_PICK_TIMEOUT = "20s"
_BY_CATEGORY: Mapping[str, tuple[str, ...]] = {
    "N": ("1", "0"),
    "B": ("false", "true"),
    "S": ("x", "1", "A", "a@example.org", "https://example.org/", "+10000000000", "127.0.0.1"),
    "Z": ("x",),
    "D": ("2000-01-01", "00:00:00"),
    "T": ("1 day",),
    "A": ("{}",),
    "I": ("127.0.0.1",),
    "R": ("empty",),
    "V": ("0", "1"),
    "G": ("(0,0)",),
}
_BY_TYPE: Mapping[str, tuple[str, ...]] = {
    "uuid": ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"),
    "json": ("{}", "[]"),
    "jsonb": ("{}", "[]"),
    "bytea": ("", "\\x00"),
    "xml": ("<x/>",),
}


@dataclass(frozen=True)
class WriteColumn:
    """A column of a table that is written to.

    Attributes:
        type: As SQL has it.
        base: Name of the type below all domains.
        category: PostgreSQL's category of that type.
        length: Most characters; None where there is no such limit.
        label: First label of an enum.
        defaulted: An insert may leave it out.
        drawn: A sequence gives the value of a row that leaves it out.
        identity: ``a`` for ALWAYS, ``d`` for BY DEFAULT, else empty.
        unique: Part of a unique key or of an exclusion.
        bound: Part of a constraint or an index.
        leading: First in an index by order, which gives its greatest value without reading the table.
    """

    name: str
    type: str
    base: str
    category: str
    length: int | None
    label: str | None
    not_null: bool
    defaulted: bool
    drawn: bool
    generated: bool
    identity: str
    unique: bool
    bound: bool
    leading: bool

    @property
    def writable(self) -> bool:
        """True when an update may give it a value."""
        return not self.generated and self.identity != "a"

    @property
    def samples(self) -> tuple[str, ...]:
        """Values to try, as text; empty for a type without one."""
        if self.label is not None:
            return (self.label,)
        return _BY_TYPE.get(self.base) or _BY_CATEGORY.get(self.category, ())


@dataclass(frozen=True)
class Reference:
    """A foreign key of or to the table: its name, the other table, pairs of other and own columns, ON DELETE."""

    name: str
    schema: str
    table: str
    pairs: tuple[tuple[str, str], ...]
    on_delete: str


@dataclass(frozen=True)
class Shape:
    """A table as the write proof needs it.

    Attributes:
        members: The oids of the table and of its partitions.
        names: The names of these.
        key: Columns of the primary key.
        drawn_keys: Names of unique indexes whose columns all get their values from sequences.
        parents: The foreign keys of the table.
        children: The foreign keys that refer to it, also from other schemas.
    """

    schema: str
    table: str
    partitioned: bool
    members: frozenset[int]
    names: frozenset[str]
    columns: tuple[WriteColumn, ...]
    key: tuple[str, ...]
    drawn_keys: frozenset[str]
    parents: tuple[Reference, ...]
    children: tuple[Reference, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The table's qualified name."""
        return sql.Identifier(self.schema, self.table)

    @property
    def as_text(self) -> sql.Composed:
        """The list of all columns as text, for SELECT."""
        return sql.SQL("ARRAY[{}]::text[]").format(
            sql.SQL(", ").join(sql.SQL("child.{}::text").format(sql.Identifier(column.name)) for column in self.columns)
        )


@dataclass(frozen=True)
class Row:
    """A row at a place of the target; ``values`` are texts in the order of the table's columns."""

    member: int
    place: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class MadeUp:
    """A row to insert: a column that is left out gets its default.

    Attributes:
        unfilled: Columns that need a value, and for which none is known that their type takes.
    """

    values: Mapping[str, str | None]
    unfilled: tuple[str, ...] = ()


def shape(connection: psycopg.Connection, schema: str, table: str) -> Shape | None:
    """Return the table's shape; None where there is no such table, or something else in its place."""
    names = {"schema": schema, "table": table}
    found = connection.execute(
        "SELECT class.oid, class.relkind = 'p' FROM pg_class AS class WHERE class.relkind IN ('r', 'p')"
        " AND class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relname = %(table)s",
        names,
    ).fetchone()
    if found is None:
        return None
    oid, partitioned = found
    members = connection.execute(
        "SELECT oid::bigint, relname FROM pg_class"
        " WHERE oid = %(oid)s OR oid IN (SELECT relid FROM pg_partition_tree(%(oid)s))",
        {"oid": oid},
    ).fetchall()
    key = connection.execute(
        "SELECT attname FROM pg_constraint AS con CROSS JOIN LATERAL unnest(con.conkey) WITH ORDINALITY AS part (attnum, at)"
        " JOIN pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = part.attnum"
        " WHERE con.conrelid = %s AND con.contype = 'p' ORDER BY part.at",
        [oid],
    ).fetchall()
    columns = tuple(WriteColumn(*row) for row in connection.execute(_COLUMNS, {"oid": oid}).fetchall())
    drawn = [column.name for column in columns if column.drawn]
    unique = connection.execute(_DRAWN_KEYS, [drawn, [int(member) for member, _ in members]]).fetchall()
    return Shape(
        schema,
        table,
        partitioned,
        frozenset(int(member) for member, _ in members),
        frozenset(name for _, name in members),
        columns,
        tuple(name for (name,) in key),
        frozenset(name for (name,) in unique),
        _references(connection, _PARENTS, [[int(oid)]]),
        _references(connection, _CHILDREN, [[int(member) for member, _ in members]]),
    )


def _references(connection: psycopg.Connection, query: LiteralString, values: list[Any]) -> tuple[Reference, ...]:
    rows = connection.execute(query, values).fetchall()
    return tuple(
        Reference(name, schema, table, tuple(zip(theirs, own, strict=True)), on_delete)
        for name, schema, table, theirs, own, on_delete in rows
    )


def free_row(connection: psycopg.Connection, table: Shape) -> Row | None:
    """Return a row that no other refers to: to delete it changes no other row. None where none is found soon.

    Only the last rows by the primary key are tried, so that no table is read as a whole.
    """
    order = sql.SQL(", ").join(sql.SQL("{} DESC").format(sql.Identifier(column)) for column in table.key)
    inner = sql.SQL("SELECT tableoid, ctid, * FROM {only} {table} {order} LIMIT {limit}").format(
        only=sql.SQL("" if table.partitioned else "ONLY"),
        table=table.identifier,
        order=sql.SQL("ORDER BY {}").format(order) if table.key else sql.SQL(""),
        limit=sql.Literal(_CANDIDATES if table.children else 1),
    )
    return _one(connection, table, inner, [_unreferenced(child) for child in table.children])


def any_row(connection: psycopg.Connection, table: Shape) -> Row | None:
    """Return some row; None where the table is empty."""
    inner = sql.SQL("SELECT tableoid, ctid, * FROM {} {} LIMIT 1").format(
        sql.SQL("" if table.partitioned else "ONLY"), table.identifier
    )
    return _one(connection, table, inner, [])


def _one(connection: psycopg.Connection, table: Shape, inner: sql.Composed, conditions: list[sql.Composed]) -> Row | None:
    where = sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL("")
    query = sql.SQL("SELECT tableoid::bigint, ctid::text, {} FROM ({}) AS child {} LIMIT 1").format(
        table.as_text, inner, where
    )
    found = _picked(connection, query)
    return None if found is None else Row(int(found[0]), str(found[1]), tuple(found[2]))


def _picked(connection: psycopg.Connection, query: sql.Composed) -> tuple[Any, ...] | None:
    """Return the first row of a query; None where there is none, or it is not found within ``_PICK_TIMEOUT``."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [_PICK_TIMEOUT])
            return connection.execute(query).fetchone()
    except errors.QueryCanceled:
        return None


def _unreferenced(child: Reference) -> sql.Composed:
    pairs = [
        sql.SQL("other.{} = child.{}").format(sql.Identifier(theirs), sql.Identifier(own)) for theirs, own in child.pairs
    ]
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS other WHERE {})").format(
        sql.Identifier(child.schema, child.table), sql.SQL(" AND ").join(pairs)
    )


def made_up(connection: psycopg.Connection, table: Shape, like: Row | None) -> MadeUp:
    """Return a row that the table may take: like an existing one but for its unique keys, else from the columns alone.

    A column with a default, a sequence's among them, is left to it where a new value is needed.
    """
    values: dict[str, str | None] = {}
    old = dict(zip((column.name for column in table.columns), like.values, strict=True)) if like is not None else {}
    borrowed = {} if like is not None else _parent_values(connection, table)
    for column in table.columns:
        if column.generated or column.identity:
            continue
        if column.unique:
            if not column.defaulted:
                values[column.name] = borrowed.get(column.name) or _fresh(connection, table, column, old)
        elif like is not None:
            values[column.name] = old[column.name]
        elif column.name in borrowed:
            values[column.name] = borrowed[column.name]
        elif column.not_null and not column.defaulted:
            values[column.name] = first_valid(connection, column, column.samples)
    required = {column.name for column in table.columns if column.not_null}
    return MadeUp(values, tuple(name for name, value in values.items() if value is None and name in required))


def _parent_values(connection: psycopg.Connection, table: Shape) -> dict[str, str]:
    """Return values for required references, from some row of each referenced table."""
    required = {column.name for column in table.columns if column.not_null and not column.defaulted}
    found: dict[str, str] = {}
    for parent in table.parents:
        if not required & {own for _, own in parent.pairs}:
            continue
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(theirs)) for theirs, _ in parent.pairs)
        row = connection.execute(
            sql.SQL("SELECT {} FROM {} LIMIT 1").format(columns, sql.Identifier(parent.schema, parent.table))
        ).fetchone()
        if row is not None:
            found |= {own: value for (_, own), value in zip(parent.pairs, row, strict=True) if value is not None}
    return found


def _fresh(connection: psycopg.Connection, table: Shape, column: WriteColumn, old: Mapping[str, str | None]) -> str | None:
    """Return a value of a unique column that no row has; where that is not known, that of an existing row."""
    token = secrets.token_hex(16)
    if column.base in ("int2", "int4", "int8", "numeric"):
        after = _after_the_greatest(connection, table, column) if column.leading else None
        samples = [after or old.get(column.name) or "1"]
    elif column.base == "uuid":
        samples = [str(uuid.uuid4())]
    elif column.category == "S":
        samples = [token[: column.length or 32], f"{token}@example.org", *column.samples]
    elif column.category == "D":
        # Of a day long ago, which a partition may have only by chance: then the table refuses it, and the insert arrived.
        samples = [f"1999-{1 + secrets.randbelow(12):02}-{1 + secrets.randbelow(28):02}", *column.samples]
    else:
        samples = list(column.samples)
    found = first_valid(connection, column, samples)
    return old.get(column.name) if found is None else found


def _after_the_greatest(connection: psycopg.Connection, table: Shape, column: WriteColumn) -> str | None:
    """Return the number after the greatest of a column; None where there is none, or it is not found soon."""
    query = sql.SQL("SELECT (trunc(max({0})) + 1)::text FROM {1}").format(sql.Identifier(column.name), table.identifier)
    row = _picked(connection, query)
    return None if row is None or row[0] is None else str(row[0])


def first_valid(connection: psycopg.Connection, column: WriteColumn, samples: Sequence[str]) -> str | None:
    """Return the first of the values that the column's type takes, as PostgreSQL writes it; None where it takes none."""
    for sample in samples:
        try:
            with connection.transaction():
                row = connection.execute(sql.SQL("SELECT ({})::text").format(typed(column, sample))).fetchone()
        except (psycopg.DataError, psycopg.IntegrityError):
            continue
        if row is not None and row[0] is not None:
            return str(row[0])
    return None


def typed(column: WriteColumn, value: str | None) -> sql.Composed:
    """Return a value as SQL of the column's type."""
    return sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(column.type))  # the type in PostgreSQL's own words


_COLUMNS: LiteralString = """
    WITH RECURSIVE base AS (
        SELECT attnum, atttypid AS type, atttypmod AS modifier, attnotnull AS not_null, false AS defaulted
        FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT base.attnum, domain.typbasetype, domain.typtypmod, base.not_null OR domain.typnotnull,
               base.defaulted OR domain.typdefault IS NOT NULL
        FROM base JOIN pg_type AS domain ON domain.oid = base.type AND domain.typtype = 'd'
    )
    SELECT attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), type.typname, type.typcategory::text,
           CASE WHEN type.typname IN ('varchar', 'bpchar') AND base.modifier > 4 THEN base.modifier - 4 END,
           (SELECT enumlabel::text FROM pg_enum WHERE enumtypid = type.oid ORDER BY enumsortorder LIMIT 1),
           base.not_null, base.defaulted OR attribute.atthasdef OR attribute.attidentity <> '',
           attribute.attidentity <> '' OR EXISTS (
               SELECT FROM pg_attrdef AS attrdef
               JOIN pg_depend AS depend ON depend.classid = 'pg_attrdef'::regclass AND depend.objid = attrdef.oid
               JOIN pg_class AS sequence ON sequence.oid = depend.refobjid AND sequence.relkind = 'S'
               WHERE depend.refclassid = 'pg_class'::regclass
                 AND attrdef.adrelid = attribute.attrelid AND attrdef.adnum = attribute.attnum),
           attribute.attgenerated <> '', attribute.attidentity::text,
           EXISTS (SELECT FROM pg_index AS index WHERE index.indrelid = attribute.attrelid
                   AND (index.indisunique OR index.indisexclusion) AND attribute.attnum = ANY (index.indkey)),
           EXISTS (SELECT FROM pg_index AS index WHERE index.indrelid = attribute.attrelid
                   AND attribute.attnum = ANY (index.indkey))
           OR EXISTS (SELECT FROM pg_constraint AS con WHERE con.conrelid = attribute.attrelid
                      AND con.contype <> 'n' AND attribute.attnum = ANY (con.conkey)),
           EXISTS (SELECT FROM pg_index AS index
                   JOIN pg_class AS class ON class.oid = index.indexrelid
                   JOIN pg_am AS method ON method.oid = class.relam AND method.amname = 'btree'
                   WHERE index.indrelid = attribute.attrelid AND index.indkey[0] = attribute.attnum
                     AND index.indisvalid AND index.indpred IS NULL)
    FROM base
    JOIN pg_type AS type ON type.oid = base.type AND type.typtype <> 'd'
    JOIN pg_attribute AS attribute ON attribute.attrelid = %(oid)s AND attribute.attnum = base.attnum
    ORDER BY attribute.attnum
"""

_DRAWN_KEYS: LiteralString = """
    SELECT class.relname
    FROM pg_index AS index
    JOIN pg_class AS class ON class.oid = index.indexrelid
    CROSS JOIN LATERAL unnest(index.indkey) WITH ORDINALITY AS part (attnum, at)
    LEFT JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid AND attribute.attnum = part.attnum
    WHERE index.indisunique AND part.at <= index.indnkeyatts
    GROUP BY class.relname, index.indrelid
    HAVING coalesce(bool_and(attribute.attname = ANY (%s)), false) AND index.indrelid = ANY (%s)
"""

_REFERENCES: LiteralString = """
    SELECT con.conname, namespace.nspname, class.relname,
           array(SELECT attname::text FROM unnest(con.{theirs}key) WITH ORDINALITY AS part (attnum, at)
                 JOIN pg_attribute AS a ON a.attrelid = con.{theirs}relid AND a.attnum = part.attnum ORDER BY at),
           array(SELECT attname::text FROM unnest(con.{own}key) WITH ORDINALITY AS part (attnum, at)
                 JOIN pg_attribute AS a ON a.attrelid = con.{own}relid AND a.attnum = part.attnum ORDER BY at),
           con.confdeltype::text
    FROM pg_constraint AS con
    JOIN pg_class AS class ON class.oid = con.{theirs}relid
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE con.contype = 'f' AND con.conparentid = 0 AND con.{own}relid = ANY (%s)
    ORDER BY con.conname
"""
# ``con`` is the table with the foreign key, ``conf`` the one that it refers to.
_PARENTS: LiteralString = _REFERENCES.format(own="con", theirs="conf")
_CHILDREN: LiteralString = _REFERENCES.format(own="conf", theirs="con")
