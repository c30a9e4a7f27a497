"""Rows whose foreign key has no parent, on the target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from include.cutover.checks import Check
from include.cutover.proof.counts import one_row
from include.cutover.proof.reading import query_problem, reading
from include.cutover.proof.words import ORPHANS, UNCOUNTED, identifier, key_text
from include.cutover.target import catalog
from include.cutover.target.catalog import ForeignKey

SHOWN_KEYS = 20


@dataclass(frozen=True)
class OrphanResult:
    """Rows whose foreign key points to nothing.

    Attributes:
        count: All of them; None where they could not be counted.
        keys: The first ``SHOWN_KEYS`` in the order of the primary key: primary key and referencing value of each, as text.
        problem: Why they could not be counted; empty otherwise.
    """

    foreign_key: ForeignKey
    count: int | None
    keys: tuple[Mapping[str, str], ...] = ()
    problem: str = ""

    def check(self, schema: str) -> Check:
        """The same as a check for the observer."""
        key = self.foreign_key
        return Check(
            name=orphans_name(key),
            title=orphan_title(key),
            outcome="unknown" if self.count is None else "failed" if self.count else "passed",
            expected="no orphan",
            found=self.problem if self.count is None else orphan_text(self.count, self.keys),
            do="" if self.count == 0 else UNCOUNTED if self.count is None else ORPHANS,
            where=f"{schema}.{key.table}",
        )


def orphans_name(key: ForeignKey) -> str:
    """Stable identifier of the check for a foreign key, whose own name is unique in its table only."""
    return f"orphans_{identifier(key.table)}_{identifier(key.name)}"


def orphan_title(key: ForeignKey) -> str:
    """What a foreign key demands, in plain words."""
    columns = ", ".join(key.columns)
    return f"every {key.table}.{columns} refers to an existing row of {key.referenced_table}"


def orphan_text(count: int, keys: Collection[Mapping[str, str]]) -> str:
    """The number of orphans and the keys that are known."""
    if not count:
        return "no orphan"
    shown = "; ".join(key_text(key) for key in keys if key)
    more = f"; and {count - len(keys):,} more" if count > len(keys) and shown else ""
    return f"{count:,} orphan{'' if count == 1 else 's'}" + (f": {shown}{more}" if shown else "")


def key_columns(key: ForeignKey, primary_key: Collection[str], secret: Collection[str] = ()) -> list[str]:
    """The columns that name an orphan: primary key, then the referencing columns; never one whose content is secret."""
    return [column for column in dict.fromkeys([*primary_key, *key.columns]) if column not in set(secret)]


def orphan_rows(schema: str, key: ForeignKey) -> sql.Composed:
    """``FROM … AS child WHERE …``: the rows of a foreign key's table that refer to nothing.

    A row with NULL in any referencing column is no orphan (MATCH SIMPLE, which is what PostgreSQL enforces by default).
    """
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


def _child(columns: Collection[str], *, as_text: bool = False) -> sql.Composed:
    form = sql.SQL("child.{}::text") if as_text else sql.SQL("child.{}")
    return sql.SQL(", ").join(form.format(sql.Identifier(column)) for column in columns)


def orphan_checks(
    conninfo: str,
    schema: str,
    secret: Mapping[str, Collection[str]] | None = None,
    *,
    seconds: float = 300,
    keys: int = SHOWN_KEYS,
) -> list[OrphanResult]:
    """Look for orphans of every foreign key that the catalog knows, validated or not, all in one moment.

    Only keys are read: the primary key of the referencing row and the value that refers to nothing.

    Args:
        secret: Columns per table whose content is never shown.
        seconds: How long one query may take.
        keys: How many orphans are named; all are counted.

    Returns:
        One result per foreign key, in the catalog's order; none where the schema has no foreign key.

    Raises:
        Unreachable: When the server does not answer.
    """
    results = []
    with reading(conninfo, schema, seconds=seconds) as connection:
        for key in catalog.foreign_keys(connection, schema):
            primary = catalog.primary_key(connection, schema, key.table)
            shown = key_columns(key, primary, (secret or {}).get(key.table, ()))
            body = orphan_rows(schema, key)
            count: int | None
            named: tuple[Mapping[str, str], ...] = ()
            problem = ""
            try:
                with connection.transaction():
                    count = int(one_row(connection.execute(sql.SQL("SELECT count(*) {}").format(body)))[0])
                    if count and shown:
                        query = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
                            _child(shown, as_text=True), body, _child(primary or key.columns), sql.Literal(keys)
                        )
                        named = tuple(
                            {column: "NULL" if value is None else value for column, value in zip(shown, row, strict=True)}
                            for row in connection.execute(query)
                        )
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                count, named, problem = None, (), query_problem(error)
            results.append(OrphanResult(key, count, named, problem))
    return results
