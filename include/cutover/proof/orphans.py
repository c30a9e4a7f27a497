"""Checks that every foreign key of the target leads to a row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg

from include.cutover.checks import Check
from include.cutover.proof.reading import query_problem, reading
from include.cutover.proof.words import ORPHANS, UNCOUNTED, identifier
from include.cutover.target import catalog, orphans
from include.cutover.target.catalog import ForeignKey

SHOWN_KEYS = 20


@dataclass(frozen=True)
class OrphanResult:
    """The orphans of one foreign key.

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
        """Return the result as a check."""
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
    """Return the stable identifier of the check for a foreign key, whose own name is unique in its table only."""
    return f"orphans_{identifier(key.table)}_{identifier(key.name)}"


def orphan_title(key: ForeignKey) -> str:
    """Return the demand of a foreign key in plain words."""
    columns = ", ".join(key.columns)
    return f"every {key.table}.{columns} refers to an existing row of {key.referenced_table}"


def orphan_text(count: int, keys: Collection[Mapping[str, str]]) -> str:
    """Return the number of orphans and the keys that are known."""
    if not count:
        return "no orphan"
    shown = "; ".join(orphans.row_name(key) for key in keys if key)
    more = f"; and {count - len(keys):,} more" if count > len(keys) and shown else ""
    return f"{count:,} orphan{'' if count == 1 else 's'}" + (f": {shown}{more}" if shown else "")


def orphan_checks(
    conninfo: str,
    schema: str,
    secret: Mapping[str, Collection[str]],
    *,
    seconds: float = 300,
    keys: int = SHOWN_KEYS,
) -> list[OrphanResult]:
    """Count the orphans of every foreign key that the catalog knows, validated or not, all in one moment.

    Only keys are read: the primary key of the referencing row and the value that refers to nothing.

    Args:
        conninfo: libpq connection string of the target.
        schema: The application's schema.
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
            hidden = secret.get(key.table, ())
            try:
                with connection.transaction():
                    count, named = orphans.in_target(connection, schema, key, secret=hidden, limit=keys)
                results.append(OrphanResult(key, count, tuple(named)))
            except psycopg.Error as error:
                if connection.broken or connection.closed:
                    raise
                results.append(OrphanResult(key, None, (), query_problem(error)))
    return results
