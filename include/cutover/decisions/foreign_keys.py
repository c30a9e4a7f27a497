"""The plan's decisions about orphans: the choice for each foreign key, and how many rows it may touch."""

from __future__ import annotations

from typing import Literal

from include.cutover.errors import Refused
from include.cutover.plan.model import Plan
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.schema import PlannedSchema

Choice = Literal["block", "quarantine", "set_null"]


def decided_keys(plan: Plan, planned: PlannedSchema) -> list[ForeignKey]:
    """Return the foreign keys whose orphans are not to block."""
    return [key for key in planned.foreign_keys if choice(plan, key) != "block"]


def choice(plan: Plan, key: ForeignKey) -> Choice:
    """Return the plan's choice for the orphans of a foreign key; ``block`` where it makes none."""
    table = plan.tables.get(key.table)
    decision = table.foreign_keys.get(key.name) if table else None
    return decision.orphans if decision else "block"


def refuse_more_than_allowed(plan: Plan, key: ForeignKey, rows: int) -> None:
    """Refuse to touch more orphans than ``at_most`` allows."""
    allowed = plan.tables[key.table].foreign_keys[key.name].at_most
    if rows > allowed:
        raise Refused(
            "more orphans than the plan allows to change",
            where=f"{key.table}.{key.name}",
            expected=f"at most {allowed:,} rows",
            found=f"{rows:,} rows",
            do="Check the rows; correct them in the source or raise at_most in the plan. Nothing was changed.",
        )


def column_types(planned: PlannedSchema) -> dict[str, dict[str, str]]:
    """Return table → column → stored type in the target."""
    return {table: {column.name: column.stored_type for column in columns} for table, columns in planned.columns.items()}
