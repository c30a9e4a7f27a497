"""Compares names across source, plan and target: tables and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from include.cutover.assessment.findings import Finding, lines
from include.cutover.assessment.target import Target, TargetTable
from include.cutover.plan.model import Plan
from include.cutover.source import schema as source_schema

_WHY = "why it is not copied"


def table_findings(conn: apsw.Connection, plan: Plan, target: Target) -> list[Finding]:
    """Find tables that are missing in the source, the plan or the target."""
    there = source_schema.tables(conn)
    virtual = {
        name for (name,) in conn.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'")
    }
    found = []
    for name in sorted(set(there) - set(plan.tables)):
        rows = _count(conn, name)
        if name in plan.ignored_tables:
            why = f"the plan: {plan.ignored_tables[name]}"
            found.append(Finding("table_ignored", "note", name, rows=rows, becomes=why))
            continue
        code = "table_virtual" if name in virtual else "table_unknown"
        decide = lines({"ignored_tables": {name: _WHY}})
        value = _spelled(name, plan.tables)
        found.append(Finding(code, "blocks", name, rows=rows, value=value, becomes="not copied", decide=decide))
    for name in sorted(set(plan.tables) - set(there)):
        found.append(Finding("table_missing", "blocks", name, value=_spelled(name, there)))
    for name in sorted(set(plan.tables) - set(target.tables)):
        found.append(Finding("table_not_made", "blocks", name, value=_spelled(name, target.tables)))
    for name, trigger in sorted(target.triggers_at_load):
        if name in plan.tables:
            becomes = "nothing: the copy refuses the table"
            found.append(Finding("trigger_in_the_way", "blocks", name, value=trigger, becomes=becomes))
    for name in sorted(set(target.tables) - set(plan.tables)):
        found.append(Finding("table_stays_empty", "note", name, becomes="empty"))
    return found


def _count(conn: apsw.Connection, table: str) -> int:
    try:
        return source_schema.counts(conn, [table])[table]
    except apsw.SQLError:  # a virtual table whose module is not here
        return 0


def _spelled(name: str, others: Mapping[str, Any] | Sequence[str]) -> str:
    """Return a hint where only upper and lower case differ."""
    alike = [other for other in others if other.lower() == name.lower() and other != name]
    return f"there is {alike[0]!r}: names must agree letter by letter" if alike else ""


def column_findings(columns: Sequence[source_schema.SourceColumn], table: TargetTable) -> list[Finding]:
    """Find columns that only the source or only the target has."""
    names = {column.name for column in columns}
    found = []
    for column in columns:
        there = table.columns.get(column.name)
        if (there is None or there.generated) and not column.generated:
            value = _spelled(column.name, list(table.columns)) if there is None else "the target computes it"
            found.append(Finding("column_unknown", "blocks", table.name, column.name, value=value, becomes="not copied"))
    for name, made in table.columns.items():
        if name not in names and not made.generated:
            found.append(Finding("column_missing", "blocks", table.name, name, value=_spelled(name, list(names))))
    return found
