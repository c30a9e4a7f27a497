# ruff: noqa: S608  every identifier is quoted, every value is bound
"""Carries out the plan's decisions about values, in the clone."""

from __future__ import annotations

from dataclasses import replace

from include.cutover.decisions import value_sql
from include.cutover.decisions.decided_snapshot import beside, place
from include.cutover.decisions.value_sql import ValueChange
from include.cutover.decisions.workspace import Workspace, rows_of
from include.cutover.errors import Refused, StepFailed, WrongData
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import TableShape, quote


class ValueChanger:
    """Changes the values that decisions touch, and records them.

    Attributes:
        changed: Table → columns with a changed value.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace
        self.changed: dict[str, set[str]] = {}

    def carry_out(self) -> None:
        """Carry out all decisions about values, table by table.

        Raises:
            Refused: When the source cannot keep what a decision makes of its values.
            WrongData: When a value cannot become what its decision says.
        """
        work = self._work
        for table, settings in sorted(work.plan.tables.items()):
            for change in value_sql.value_changes(work.connection, table, settings.columns, work.planned):
                self._change(table, change)

    def _change(self, table: str, change: ValueChange) -> None:
        shape, t, name = self._work.shape(table), self._work.numbers[table], change.column.name
        at = place(shape, "r")
        self._work.run("DELETE FROM work.change")
        self._work.run(
            f"INSERT INTO work.change SELECT {at}, {change.new} FROM {rows_of(shape)} WHERE {change.condition}",
            change.bindings,
        )
        count = self._work.connection.changes()
        if not count:
            return
        self._refuse_unfit(shape, change, count)
        if change.writes != "null":
            self._make_column_keep(shape, change)
        c = quote(name)
        self._work.run(
            f"UPDATE OR ABORT main.{quote(table)} AS r"
            # Without the plus the rowid's type would be applied to x.place, and its index could not be used.
            f" SET {c} = (SELECT x.new FROM work.change AS x WHERE x.place = +{at})"
            f" WHERE {at} IN (SELECT x.place FROM work.change AS x)"
        )
        kept = self._work.value(
            f"SELECT count(*) FROM {beside(shape, 'work.change', 'main')}"
            f" WHERE typeof(main.{c}) = typeof(x.new) AND +main.{c} COLLATE BINARY IS +x.new"
        )
        if kept != count:
            raise Refused(
                "the declared type of the column changes the values that the decision writes",
                where=f"table {table}, column {name}",
                expected=f"{count:,} values as {change.decision} makes them",
                found=f"{kept:,}, in a column declared {change.column.declared_type or 'without a type'}",
                do="Correct these rows in the source. Nothing was changed.",
            )
        self._work.run(
            "INSERT INTO record.touched SELECT :t, :c, x.place, :decision, NULL FROM work.change AS x WHERE true"
            " ON CONFLICT DO UPDATE SET decision = decision || ', ' || excluded.decision",
            {"t": t, "c": name, "decision": change.decision},
        )
        self.changed.setdefault(table, set()).add(name)

    def _refuse_unfit(self, shape: TableShape, change: ValueChange, count: int) -> None:
        """Refuse a change that the table cannot take, or of values that cannot become what the decision says."""
        where = f"table {shape.table}, column {change.column.name}"
        is_rowid = change.column.primary_key and change.column.declared_type.upper() == "INTEGER"
        if is_rowid or change.column.name in {key.name for key in shape.order}:
            raise Refused(
                "a decision would change the key that identifies the rows of this table",
                where=where,
                found=f"{count:,} values, e.g. {self._work.examples(shape, 'work.change')}",
                do="Correct these rows in the source. Nothing was changed.",
            )
        if change.writes == "null":
            if change.target.not_null or change.column.not_null:
                raise WrongData(
                    "'' cannot become NULL in a column that is NOT NULL",
                    where=where,
                    found=f"{count:,} values, e.g. {self._work.examples(shape, 'work.change')}",
                    do="Correct these rows in the source. Nothing was changed.",
                )
            return
        unfit = "(SELECT place FROM work.change WHERE new IS NULL)"
        wrong = self._work.value(f"SELECT count(*) FROM {unfit}")
        if wrong:
            raise WrongData(
                f"values cannot become what the decision {change.decision} says",
                where=where,
                expected=change.expected,
                found=f"{wrong:,} others, e.g. {self._work.examples(shape, unfit)}",
                do="Correct these rows in the source, or the decision. Nothing was changed.",
            )

    def _make_column_keep(self, shape: TableShape, change: ValueChange) -> None:
        """Change the column to keep new values as written: a TEXT column would turn 1 into '1', a NUMERIC one '12' into 12.

        The type is removed from the clone's CREATE TABLE. Existing values stay as they are, except in a REAL column: there
        SQLite keeps 2.0 as 2, and would read 2 again.
        """
        column = change.column
        strict = self._work.value("SELECT strict FROM pragma_table_list WHERE schema = 'main' AND name = ?", (shape.table,))
        if strict:
            keeps = {"text": ("TEXT", "ANY"), "integer": ("INTEGER", "INT", "ANY")}[change.writes]
            kept = column.declared_type.upper() in keeps
        else:
            keeps = {"text": ("TEXT", "BLOB"), "integer": ("INTEGER", "NUMERIC", "BLOB")}[change.writes]
            kept = (
                source_schema.affinity(column.declared_type) in keeps or change.decision == "datetime"
            )  # never looks like a number
        every_number_goes = change.decision == "datetime"
        if kept or (source_schema.affinity(column.declared_type) == "REAL" and not every_number_goes):
            return
        before = source_schema.columns(self._work.connection, shape.table)
        create = self._work.value("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?", (shape.table,))
        changed = value_sql.without_type(create, column.name, "ANY" if strict else "")
        self._work.run("PRAGMA writable_schema = ON")
        self._work.run("UPDATE main.sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", (changed, shape.table))
        self._work.run("PRAGMA writable_schema = RESET")
        expected = [
            replace(item, declared_type="ANY" if strict else "") if item.name == column.name else item for item in before
        ]
        if source_schema.columns(self._work.connection, shape.table) != expected:
            raise StepFailed(
                "the type of a column could not be removed from the clone's schema",
                where=f"table {shape.table}, column {column.name}",
                do="Correct the rows that the decision is about in the source. Nothing was changed.",
            )
