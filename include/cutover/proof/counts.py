"""Compares row counts of the target with those of the snapshot, by plain SQL.

All figures come from one transaction, READ ONLY and REPEATABLE READ, so that they are of one moment, and no query can change
the target. Wrong data is a result; a table that could not be counted is ``unknown``, never a pass.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.proof.reading import query_problem, reading, relation_problem
from include.cutover.proof.words import MISMATCH, REFERENCE_DATA, SNAPSHOT, UNCOUNTED, count_text, identifier, rows_text
from include.cutover.target.session import one_row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExpectedCount:
    """Rows that a table must hold, and where that number comes from, e.g. ``snapshot`` or ``reference data``."""

    rows: int
    origin: str = SNAPSHOT


@dataclass(frozen=True)
class Reconciliation:
    """Both sides of one table.

    Attributes:
        source_rows: Rows that the table must hold.
        target_rows: Rows that the target holds; None where it could not be counted.
        origin: Where ``source_rows`` comes from.
        problem: Why it could not be counted; empty otherwise.
    """

    table: str
    source_rows: int
    target_rows: int | None
    origin: str = SNAPSHOT
    problem: str = ""

    @property
    def delta(self) -> int | None:
        """Rows too many (positive) or missing (negative); None where the target could not be counted."""
        return None if self.target_rows is None else self.target_rows - self.source_rows

    def check(self, schema: str) -> Check:
        """Return the result as a check."""
        return Check(
            name=f"row_count_{identifier(self.table)}",
            title=f"rows of {self.table} are as many as expected",
            outcome="unknown" if self.delta is None else "passed" if self.delta == 0 else "failed",
            expected=count_text(self.source_rows, self.origin),
            found=self.problem if self.target_rows is None else count_text(self.target_rows, delta=self.delta),
            do="" if self.delta == 0 else UNCOUNTED if self.delta is None else MISMATCH,
            where=f"{schema}.{self.table}",
        )


def expected_counts(
    snapshot: Mapping[str, int], reference: Mapping[str, int] | None = None, quarantined: Mapping[str, int] | None = None
) -> dict[str, ExpectedCount]:
    """Return the rows that every table must hold: the snapshot's, and those of reference data where it has none.

    Args:
        snapshot: Rows per table in the snapshot.
        reference: Rows that reference data put into tables without rows in the snapshot.
        quarantined: Rows of the snapshot that the plan's decisions took out before the copy.

    Raises:
        CannotCheck: When reference data went into a table that the snapshot fills, or into one that it does not know: the
            number could then not be said to come from either.
    """
    expected = {}
    for table, rows in snapshot.items():
        out = (quarantined or {}).get(table, 0)
        expected[table] = ExpectedCount(rows - out, f"{SNAPSHOT}, less {out:,} in quarantine" if out else SNAPSHOT)
    for table, rows in (reference or {}).items():
        if table not in expected or expected[table].rows:
            raise CannotCheck(
                "reference data belongs only into tables that have no rows in the snapshot",
                where=table,
                expected="0 rows in the snapshot",
                found="a table that is not in the snapshot"
                if table not in expected
                else f"{rows_text(expected[table].rows)} in the snapshot and {rows:,} of reference data",
                do="Correct the SQL file under reference/.",
            )
        expected[table] = ExpectedCount(rows, REFERENCE_DATA)
    return expected


def count_checks(
    conninfo: str, schema: str, expected: Mapping[str, ExpectedCount | int], *, seconds: float = 300
) -> list[Reconciliation]:
    """Count the rows of every expected table, all in one moment.

    A table that is missing, is not a table or cannot be counted has ``target_rows`` None and says why; its check is
    ``unknown``.

    Args:
        conninfo: libpq connection string of the target.
        schema: The application's schema.
        expected: Rows per table; a plain number comes from the snapshot.
        seconds: How long one count may take.

    Raises:
        CannotCheck: When no table is expected.
        Unreachable: When the server does not answer.
    """
    if not expected:
        raise CannotCheck(
            "there is no table to count",
            where=schema,
            expected="the tables of the plan",
            do="Check the backup's manifest.",
        )
    found = []
    with reading(conninfo, schema, seconds=seconds) as connection:
        problems = relation_problem(connection, schema, expected.keys())
        for table, wanted in expected.items():
            count = wanted if isinstance(wanted, ExpectedCount) else ExpectedCount(wanted)
            rows, problem = None, problems.get(table, "")
            if not problem:
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
                try:
                    with connection.transaction():
                        rows = int(one_row(connection.execute(query))[0])
                except psycopg.Error as error:
                    if connection.broken or connection.closed:
                        raise
                    problem = query_problem(error)
            found.append(Reconciliation(table, count.rows, rows, count.origin, problem))
    return found
