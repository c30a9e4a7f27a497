"""The rules for the rows of a table, NOT NULL, keys and foreign keys, and the SQL that finds rows that violate them.

The rules are those of the plan's SQL and those of the target's catalog together: one that was dropped is still
checked, and so is one that was added. The queries give keys only, with secret columns masked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import psycopg
from psycopg import sql

from include.cutover.proof.orphans import SHOWN_KEYS
from include.cutover.proof.reading import reading
from include.cutover.proof.words import HIDDEN
from include.cutover.target import catalog, scratch_schema
from include.cutover.target.catalog import ForeignKey, Index, IndexPart
from include.cutover.target.orphans import rows_in_target

COUNT_COLUMN = "rows found"
"""Column with the number of all that a query found, of which it gives the first ``SHOWN_KEYS`` only."""

NULLS_COLUMN = "NULL in"
TIMES_COLUMN = "rows with it"

_SHOWN = 200  # characters of a value
_ARGUMENTS = 90  # PostgreSQL takes 100 for one function

Rule = TypeVar("Rule")

_CATALOG = "in the catalog of the target"
_BOTH = "of the plan and of the target"
_PLAN = "of the plan, which the target does not have"
_TARGET = "of the target, which the plan does not have"
_NOT_NULL = {
    _CATALOG: "NOT NULL in the catalog of the target",
    _BOTH: "NOT NULL by the plan and in the target",
    _PLAN: "NOT NULL by the plan, but not in the target",
    _TARGET: "NOT NULL in the target, but not by the plan",
}


@dataclass(frozen=True)
class Stated(Generic[Rule]):
    """A rule, and the sentence that says where it stands."""

    rule: Rule
    origin: str


@dataclass(frozen=True)
class TableRules:
    """The rules of a table.

    Attributes:
        primary_key: The columns that name a row; empty where there is no primary key.
        not_null: Columns, None where no column is NOT NULL.
        unique: The primary key and whatever else is unique.
    """

    table: str
    primary_key: tuple[str, ...]
    not_null: Stated[tuple[str, ...]] | None
    unique: tuple[Stated[Index], ...]
    foreign_keys: tuple[Stated[ForeignKey], ...]


@dataclass(frozen=True)
class _Reading:
    """The rules of a table in one catalog."""

    primary_key: Sequence[str] = ()
    not_null: Sequence[str] = ()
    unique: Sequence[Index] = ()
    foreign_keys: Sequence[ForeignKey] = ()


def read(conninfo: str, schema: str, sql_folder: Path | None = None) -> dict[str, TableRules]:
    """Read the rules of every table that the plan's SQL makes or the schema has.

    Args:
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        sql_folder: The plan's SQL, which is tried in a scratch schema and rolled back; None for the catalog's rules alone.

    Raises:
        CannotCheck: When a foreign key leaves the schema.
        Unreachable: When the target does not answer.
        The errors of ``scratch_schema.build``: when the SQL cannot be tried.
    """
    planned = None
    if sql_folder is not None:
        with scratch_schema.build(conninfo, sql_folder) as (connection, scratch):
            planned = _readings(connection, scratch)
    with reading(conninfo, schema, seconds=60) as connection:
        found = _readings(connection, schema)
    return {
        table: _together(table, None if planned is None else planned.get(table, _Reading()), found.get(table, _Reading()))
        for table in {**(planned or {}), **found}
    }


def _readings(connection: psycopg.Connection, schema: str) -> dict[str, _Reading]:
    indexes, references = catalog.indexes(connection, schema), catalog.foreign_keys(connection, schema)
    return {
        table: _Reading(
            primary_key=next(([column or "" for column in index.columns] for index in indexes[table] if index.primary), []),
            not_null=[column.name for column in columns if column.not_null],
            unique=sorted((index for index in indexes[table] if index.unique), key=lambda index: not index.primary),
            foreign_keys=[key for key in references if key.table == table],
        )
        for table, columns in catalog.columns(connection, schema).items()
    }


def _together(table: str, planned: _Reading | None, found: _Reading) -> TableRules:
    def stated(rules: Callable[[_Reading], Iterable[Rule]], same: Callable[[Rule], Hashable]) -> list[tuple[Rule, str]]:
        """Return each rule once, with the end of the sentence that says where it stands."""
        theirs = {same(rule): rule for rule in rules(found)}
        if planned is None:
            return [(rule, _CATALOG) for rule in theirs.values()]
        ours = {same(rule): rule for rule in rules(planned)}
        return [
            *((rule, _BOTH if name in theirs else _PLAN) for name, rule in ours.items()),
            *((rule, _TARGET) for name, rule in theirs.items() if name not in ours),
        ]

    columns = stated(lambda reading: reading.not_null, lambda column: column)
    places = {where: [column for column, place in columns if place == where] for _, where in columns}
    sentences = [f"{_NOT_NULL[where]}: {', '.join(names)}." for where, names in places.items()]
    return TableRules(
        table,
        primary_key=tuple((planned.primary_key if planned else ()) or found.primary_key),
        not_null=Stated(tuple(column for column, _ in columns), " ".join(sentences)) if columns else None,
        unique=tuple(
            Stated(index, f"The rule is the {'primary' if index.primary else 'unique'} key {index.name} {where}.")
            for index, where in stated(lambda reading: reading.unique, _same_rows)
        ),
        foreign_keys=tuple(
            Stated(key, f"The rule is the foreign key {key.name} {where}.")
            for key, where in stated(lambda reading: reading.foreign_keys, _same_reference)
        ),
    )


def _same_rows(index: Index) -> Hashable:
    """Return the same for two indexes that keep out the same rows, whatever they are called."""
    parts = tuple((part.definition, part.collation) for part in index.parts)
    return index.primary, index.predicate, index.nulls_equal, parts


def _same_reference(key: ForeignKey) -> Hashable:
    return key.columns, key.referenced_table, key.referenced_columns


# --- rows that violate them -----------------------------------------------------------------------------------------------


def rows_with_null(schema: str, rules: TableRules, secret: Collection[str] = ()) -> sql.Composed:
    """Return the query for rows with a NULL in a NOT NULL column: their primary keys, and the names of these columns.

    ``num_nulls`` and not ``IS NULL``: PostgreSQL answers that of a NOT NULL column without reading the rows.
    """
    columns = rules.not_null.rule if rules.not_null else ()
    name = sql.SQL("CASE num_nulls({}) WHEN 1 THEN {} END")
    names = sql.SQL("array_to_string(ARRAY[{}], ', ')").format(
        sql.SQL(", ").join(name.format(_child(column), sql.Literal(column)) for column in columns)
    )
    nulls = sql.SQL(" + ").join(
        sql.SQL("num_nulls({})").format(sql.SQL(", ").join(map(_child, columns[at : at + _ARGUMENTS])))
        for at in range(0, len(columns), _ARGUMENTS)
    )
    return sql.SQL("SELECT {} FROM {} AS child WHERE {} > 0 {} LIMIT {}").format(
        sql.SQL(", ").join([
            *(_shown(_child(column), column, column in secret) for column in rules.primary_key),
            sql.SQL("{} AS {}").format(names, sql.Identifier(NULLS_COLUMN)),
            _COUNT,
        ]),
        sql.Identifier(schema, rules.table),
        nulls,
        _ordered(map(_child, rules.primary_key)),
        sql.Literal(SHOWN_KEYS),
    )  # fmt: skip


def doubled_keys(schema: str, index: Index, secret: Collection[str] = ()) -> sql.Composed:
    """Return the query for keys that several rows have, and how many have them; ``COUNT_COLUMN`` counts the keys.

    A key with a NULL in it is like no other, as PostgreSQL has it, but for NULLS NOT DISTINCT; and a primary key has none.
    """
    parts = [_part(part) for part in index.parts]
    keys = [sql.Identifier("doubled", f"key_{number}") for number in range(len(parts))]
    conditions = [sql.SQL("({})").format(sql.SQL(index.predicate))] if index.predicate else []  # PostgreSQL's own words
    if not index.nulls_equal and not index.primary:
        conditions += [sql.SQL("{} IS NOT NULL").format(part) for part in parts]
    # Ordered by the key itself, which an index can give in order, and not by the text that is shown of it.
    doubled = sql.SQL("SELECT {}, count(*) AS times FROM {} {} GROUP BY {} HAVING count(*) > 1").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(part, sql.Identifier(f"key_{number}")) for number, part in enumerate(parts)
        ),
        sql.Identifier(schema, index.table),
        sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL(""),
        sql.SQL(", ").join(parts),
    )
    return sql.SQL("SELECT {} FROM ({}) AS doubled {} LIMIT {}").format(
        sql.SQL(", ").join([
            *(_shown(key, part.column or part.definition, _is_secret(part, secret))
              for key, part in zip(keys, index.parts, strict=True)),
            sql.SQL("doubled.times AS {}").format(sql.Identifier(TIMES_COLUMN)),
            _COUNT,
        ]),
        doubled,
        _ordered(keys),
        sql.Literal(SHOWN_KEYS),
    )  # fmt: skip


def rows_without_parent(schema: str, key: ForeignKey, primary_key: Sequence[str], secret: Collection[str]) -> sql.Composed:
    """Return the query for the rows whose reference leads nowhere: their primary keys and the values that refer.

    Args:
        schema: The application's schema.
        key: The foreign key.
        primary_key: Columns of the referring table's primary key; empty where it has none.
        secret: Columns of that table whose content is never shown.
    """
    return sql.SQL("SELECT {} {} {} LIMIT {}").format(
        sql.SQL(", ").join([
            *(_shown(_child(column), column, column in secret) for column in dict.fromkeys([*primary_key, *key.columns])),
            _COUNT,
        ]),
        rows_in_target(schema, key),
        _ordered(map(_child, primary_key or key.columns)),
        sql.Literal(SHOWN_KEYS),
    )  # fmt: skip


_COUNT = sql.SQL("count(*) OVER () AS {}").format(sql.Identifier(COUNT_COLUMN))


def _child(column: str) -> sql.Composed:
    return sql.SQL("child.{}").format(sql.Identifier(column))


def _part(part: IndexPart) -> sql.Composed:
    # Definition and collation are PostgreSQL's own words, quoted where that is needed.
    collation = sql.SQL(f" COLLATE {part.collation}") if part.collation else sql.SQL("")
    return sql.SQL("({}{})").format(sql.SQL(part.definition), collation)


def _is_secret(part: IndexPart, secret: Collection[str]) -> bool:
    # The catalog does not say which columns an expression is made of: beside a secret column none is shown.
    return part.column in secret if part.column is not None else bool(secret)


def _shown(value: sql.Composable, name: str, hidden: bool) -> sql.Composed:
    text = sql.SQL("left({}::text, {})").format(value, sql.Literal(_SHOWN))
    return sql.SQL("{} AS {}").format(sql.Literal(HIDDEN) if hidden else text, sql.Identifier(name[:63]))


def _ordered(columns: Iterable[sql.Composable]) -> sql.Composed:
    given = list(columns)
    return sql.SQL("ORDER BY {}").format(sql.SQL(", ").join(given)) if given else sql.Composed([])
