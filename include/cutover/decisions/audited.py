# ruff: noqa: S608  every identifier is quoted, every value is bound
"""The subject of an audit: the decided snapshot, the backup and the record, opened together; and the words of its checks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import apsw

from include.cutover.checks import Check
from include.cutover.decisions import decided_snapshot
from include.cutover.decisions.audit_rules import ColumnRule
from include.cutover.decisions.decided_snapshot import Decided, place
from include.cutover.plan.model import Plan
from include.cutover.proof.canonical import base_type
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote
from include.cutover.target.catalog import ForeignKey
from include.cutover.target.schema import PlannedSchema

NAMED = 3

Row = tuple[int, Any]  # number of the table, and the row's place


def verdict(
    name: str, title: str, wrong: Collection[str], expected: str, found: str = "as expected", where: str = ""
) -> Check:
    """Return a check that passes when nothing is wrong.

    Args:
        name: Of the check.
        title: Of the check.
        wrong: The faults; the first are shown.
        expected: In words.
        found: In words, when nothing is wrong.
        where: Table, foreign key or file.
    """
    if not wrong:
        return Check(name, title, "passed", expected, found, where=where)
    shown = [*wrong][: NAMED + 1]
    faults = "; ".join(shown[:NAMED]) + ("; and more" if len(shown) > NAMED else "")
    do = "Do not copy from the decided snapshot: delete it and run the step again; keep it if that does not help."
    return Check(name, title, "failed", expected, faults, do, where)


class Audited:
    """A decided snapshot with its backup and record.

    Attributes:
        connection: From ``decided_snapshot.opened``.
        types: Table → column → stored type in the target.
        encoding: Of the database's text.
        tables: Table → its number in the record.
        names: The inverse of ``tables``.
        recorded: Tables with a touched value or a row taken out.
        keys: Foreign keys by table and name.
    """

    def __init__(self, connection: apsw.Connection, decided: Decided, plan: Plan, planned: PlannedSchema) -> None:
        self.connection = connection
        self.decided = decided
        self.plan = plan
        self.planned = planned
        self.types = {table: {item.name: item.stored_type for item in items} for table, items in planned.columns.items()}
        self.encoding = decided_snapshot.text_encoding(connection)
        self.tables = {name: t for t, name in connection.execute("SELECT t, name FROM record.tables")}
        self.names = {t: name for name, t in self.tables.items()}
        touched = connection.execute("SELECT DISTINCT t FROM record.touched UNION SELECT t FROM record.removed")
        self.recorded = sorted(self.names.get(t, f"table {t}") for (t,) in touched)
        self.keys = {(key.table, key.name): key for key in planned.foreign_keys}

    def choice(self, key: ForeignKey) -> str:
        """Return the plan's choice for the orphans of a foreign key; ``block`` where it makes none."""
        table = self.plan.tables.get(key.table)
        decision = table.foreign_keys.get(key.name) if table else None
        return decision.orphans if decision else "block"

    def column_type(self, table: str, column: str) -> str:
        """Return the base type of a column in the target; empty where it is unknown."""
        return base_type(self.types.get(table, {}).get(column, ""))

    def recorded_row_name(self, row: Row) -> str:
        """Return table and key of a row in the record."""
        t, at = row
        shape = source_schema.shape(self.connection, self.names[t])
        names = ", ".join(decided_snapshot.key_columns(shape, "original"))
        query = f"SELECT {names} FROM original.{quote(shape.table)} AS original WHERE {place(shape, 'original')} = ?"
        key = self.connection.execute(query, (at,)).fetchone()
        return f"{shape.table} {self.row_name(shape, key) if key else 'a row that is not in the backup'}"

    def rules(self, table: str) -> dict[str, ColumnRule]:
        """Return column → the rule that its decisions make."""
        decisions = self.plan.tables[table].columns
        return {
            name: ColumnRule(decision, base_type(self.types[table][name]), self.encoding)
            for name, decision in decisions.items()
        }

    def row_name(self, shape: TableShape, key: Sequence[Any]) -> str:
        """Format the key of a row; secret values are hidden."""
        table = self.plan.tables.get(shape.table)
        return decided_snapshot.row_name(shape, key, table.secret if table else (), self.encoding)
