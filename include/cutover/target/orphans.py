"""Orphans: rows whose foreign key refers to no row. The SQL that finds them, in the source and in the target.

The foreign keys are those of the target. A row with NULL in any of the referencing columns refers to nothing and is no
orphan (MATCH SIMPLE, PostgreSQL's default).

Orphans are named by their keys. A column that the plan calls secret is never among them: the functions that name rows
demand the secret columns of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import apsw
import psycopg
from psycopg import sql

from include.cutover.errors import CannotCheck
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import quote
from include.cutover.target import catalog
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.session import one_row

Types = Mapping[str, Mapping[str, str]]
"""Table → column → its type in the target."""

# --- SQLite -------------------------------------------------------------------------------------------------------------


def plain_value(alias: str, table: str, column: str) -> str:
    """Return SQL for the value of a column as it stands."""
    return f"{alias}.{quote(column)}"


@dataclass(frozen=True)
class SourceReference:
    """A foreign key as SQLite compares its ends: those of a row ``r`` that refers, and those of a row ``p`` referred to.

    Where either end becomes ``uuid``, both are compared as uuids: the source may spell one with hyphens and the other
    without. Text is compared byte by byte, whatever collation the source declares.

    Attributes:
        own: SQL for the referencing values of ``r``.
        referenced: SQL for the values of ``p``.
        present: Condition that ``r`` refers to something.
        there: Condition that ``p`` can be referred to.
    """

    key: ForeignKey
    own: str
    referenced: str
    present: str
    there: str

    @classmethod
    def of(cls, key: ForeignKey, types: Types, value: Callable[[str, str, str], str] = plain_value) -> SourceReference:
        """Return the SQL of a foreign key.

        Args:
            key: The target's foreign key.
            types: The target's types of the columns at both ends.
            value: Gives SQL for a column's value from alias, table and column, where it is not the value as it stands.
        """
        own, referenced, present, there = [], [], [], []
        for column, other in zip(key.columns, key.referenced_columns, strict=True):
            mine, theirs = value("r", key.table, column), value("p", key.referenced_table, other)
            ends = (types.get(key.table, {}).get(column), types.get(key.referenced_table, {}).get(other))
            own.append(_uuid_digits(mine) if "uuid" in ends else f"{mine} COLLATE BINARY")
            referenced.append(_uuid_digits(theirs) if "uuid" in ends else theirs)
            present.append(f"{mine} IS NOT NULL")
            there.append(f"{theirs} IS NOT NULL")
        return cls(key, ", ".join(own), ", ".join(referenced), " AND ".join(present), " AND ".join(there))

    def is_orphan(self, but: str = "") -> str:
        """Return the condition that ``r`` refers to nothing.

        Args:
            but: A further condition on the rows that can be referred to, with `` AND `` in front; empty for none.
        """
        # The set on the right is built once, as an index in a temporary file where it is large.
        return f"{self.present} AND ({self.own}) NOT IN ({self._parents('main', but)})"

    def refers_into(self, schema: str) -> str:
        """Return the condition that ``r`` refers to a row of another database, e.g. ``original``."""
        return f"({self.own}) IN ({self._parents(schema)})"

    def _parents(self, schema: str, but: str = "") -> str:
        table = f"{schema}.{quote(self.key.referenced_table)}"
        return f"SELECT {self.referenced} FROM {table} AS p WHERE {self.there}{but}"  # noqa: S608


def _uuid_digits(value: str) -> str:
    return f"lower(replace(replace(replace({value}, '-', ''), '{{', ''), '}}', ''))"


def count_in_source(conn: apsw.Connection, key: ForeignKey, types: Types) -> int:
    """Count the orphans of a foreign key in a snapshot.

    Raises:
        CannotCheck: When a table or column of the foreign key is not in the source.
    """
    return int(conn.execute(f"SELECT count(*) {_rows_in_source(conn, key, types)}").get)


def in_source(
    conn: apsw.Connection, key: ForeignKey, types: Types, *, secret: Collection[str], limit: int
) -> tuple[int, list[str]]:
    """Count the orphans of a foreign key in a snapshot, and name the first.

    Args:
        conn: The snapshot.
        key: The target's foreign key.
        types: The target's types of the columns at both ends.
        secret: Columns of the referring table whose content is never shown.
        limit: How many orphans are named at most.

    Returns:
        The number of orphans, and the keys of the first, e.g. ``id=5``.

    Raises:
        CannotCheck: When a table or column of the foreign key is not in the source.
    """
    rows = _rows_in_source(conn, key, types)
    count = int(conn.execute(f"SELECT count(*) {rows}").get)
    if not count:
        return 0, []
    names, cells = source_schema.named_by(source_schema.shape(conn, key.table), secret)
    if not cells:
        names = tuple(name for name in key.columns if name not in secret)
        cells = tuple(quote(name) for name in names) or ("'…'",)
    shown = ", ".join(source_schema.readable(cell) for cell in cells)
    found = conn.execute(f"SELECT {shown} {rows} LIMIT ?", (limit,))
    return count, [source_schema.key_text(names or ("key",), row) for row in found]


def _rows_in_source(conn: apsw.Connection, key: ForeignKey, types: Types) -> str:
    """Return ``FROM … WHERE …`` of the orphans."""
    _require_columns(conn, key.table, key.columns)
    _require_columns(conn, key.referenced_table, key.referenced_columns)
    return f"FROM main.{quote(key.table)} AS r WHERE {SourceReference.of(key, types).is_orphan()}"


def _require_columns(conn: apsw.Connection, table: str, names: Sequence[str]) -> None:
    known = {column.name for column in source_schema.columns(conn, table)}
    if missing := [name for name in names if name not in known]:
        raise CannotCheck(
            "a column of the foreign key is not in the source",
            where=table,
            expected=", ".join(missing),
            do="Correct the plan's SQL.",
        )


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


def rows_in_target(schema: str, key: ForeignKey) -> sql.Composed:
    """Return ``FROM … AS child WHERE …`` of the orphans."""
    equal = [
        sql.SQL("parent.{} = child.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
        for ours, theirs in zip(key.columns, key.referenced_columns, strict=True)
    ]
    return sql.SQL("FROM {} AS child WHERE {} AND NOT EXISTS (SELECT FROM {} AS parent WHERE {})").format(
        sql.Identifier(schema, key.table),
        sql.SQL(" AND ").join(sql.SQL("child.{} IS NOT NULL").format(sql.Identifier(column)) for column in key.columns),
        sql.Identifier(schema, key.referenced_table),
        sql.SQL(" AND ").join(equal),
    )


def in_target(
    connection: psycopg.Connection,
    schema: str,
    key: ForeignKey,
    *,
    secret: Collection[str],
    limit: int,
    primary_key_only: bool = False,
) -> tuple[int, list[dict[str, str]]]:
    """Count the orphans of a foreign key in the target, and name the first in the order of their primary keys.

    Args:
        connection: A session with the target.
        schema: The application's schema.
        key: The foreign key.
        secret: Columns of the referring table whose content is never shown.
        limit: How many orphans are named at most.
        primary_key_only: Name them by the primary key alone, not by the referencing value as well.

    Returns:
        The number of orphans, and columns and values, as text, of the first; none where no column may be shown.
    """
    rows = rows_in_target(schema, key)
    count = int(one_row(connection.execute(sql.SQL("SELECT count(*) {}").format(rows)))[0])
    primary = catalog.primary_key(connection, schema, key.table)
    columns = dict.fromkeys(primary if primary_key_only else [*primary, *key.columns])
    shown = [column for column in columns if column not in set(secret)]
    if not count or not shown:
        return count, []
    query = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
        sql.SQL(", ").join(sql.SQL("child.{}::text").format(sql.Identifier(column)) for column in shown),
        rows,
        sql.SQL(", ").join(sql.SQL("child.{}").format(sql.Identifier(column)) for column in primary or key.columns),
        sql.Literal(limit),
    )
    return count, [
        {column: "NULL" if value is None else value for column, value in zip(shown, row, strict=True)}
        for row in connection.execute(query)
    ]


def row_name(key: Mapping[str, str]) -> str:
    """Return the name of a row of the target from its key, e.g. ``id=5, device_id=17``."""
    return ", ".join(f"{column}={value}" for column, value in key.items())
