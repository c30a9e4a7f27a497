"""The answer of one check of the target, and the target that the checks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from include.cutover.checks import Outcome
from include.cutover.plan.model import Plan
from include.cutover.target.session import Connection


@dataclass(frozen=True)
class Answer:
    """The result of one check; see ``Check`` for the fields."""

    outcome: Outcome
    expected: str = ""
    found: str = ""
    do: str = ""

    @classmethod
    def when(cls, passed: bool, expected: str, found: str, do: str) -> Answer:
        """Return a passed answer, or a failed one that says what to do.

        Args:
            passed: The outcome.
            expected: The state that passes.
            found: The state that was found.
            do: The remedy when it failed.
        """
        return cls("passed" if passed else "failed", expected, found, "" if passed else do)


@dataclass(frozen=True)
class ExaminedTarget:
    """The target under examination, over one connection.

    Attributes:
        conninfo: The target, for further sessions.
        connection: The session that the checks share.
        plan: Sets limits, schema and tables.
        source_bytes: Size of the source file; the free disk is measured by it.
        application_role: Role that the application will log in with; None where the plan moves no application.
    """

    conninfo: str
    connection: Connection
    plan: Plan
    source_bytes: int
    application_role: str | None

    @property
    def schema(self) -> str:
        """The schema that the plan moves the data to."""
        return self.plan.target_schema

    def row(self, query: LiteralString | sql.Composed, *values: Any) -> tuple[Any, ...]:
        """Return the first row of a query; empty where there is none."""
        row = self.connection.execute(query, values or None).fetchone()
        return () if row is None else row
