"""The two sides of a copy or a comparison: a snapshot of the source, and the target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from include.cutover.plan.model import Plan


@dataclass(frozen=True)
class Sides:
    """A snapshot of the source, and the schema of the target that holds, or is to hold, the same rows.

    Attributes:
        snapshot: SQLite file without a writer: the verified backup, or the clone in which decisions were carried out.
        conninfo: libpq connection string of the target.
        schema: The application's schema in the target.
        secret: Columns per table whose content is never shown, not even as a key.
    """

    snapshot: Path
    conninfo: str
    schema: str
    secret: Mapping[str, Collection[str]] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan, snapshot: Path, conninfo: str) -> Sides:
        """Return the sides of a plan, with its schema and its secret columns."""
        return cls(snapshot, conninfo, plan.target_schema, {name: table.secret for name, table in plan.tables.items()})

    def secret_of(self, table: str) -> frozenset[str]:
        """Return the columns of a table whose content is never shown."""
        return frozenset(self.secret.get(table, ()))
