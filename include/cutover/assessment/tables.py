"""Assesses one table: its columns, its rows, its unique keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import apsw

from include.cutover.assessment.columns import AssessedColumn, assessed_column, rowid_alias
from include.cutover.assessment.expressions import Untranslatable, translated
from include.cutover.assessment.findings import Finding
from include.cutover.assessment.names import column_findings
from include.cutover.assessment.scan import RowCheck, TableScan
from include.cutover.assessment.target import TargetTable
from include.cutover.assessment.unique_keys import duplicates
from include.cutover.errors import Refused
from include.cutover.plan.tables import ColumnDecision, Table
from include.cutover.source import schema as source_schema


@dataclass(frozen=True)
class RowsRead:
    """The progress of an assessment: the current table and how many of its rows were read."""

    table: str
    rows: int


class TableAssessment:
    """The assessment of one table.

    Attributes:
        shape: Name and keys of the table in the source.
        columns: Columns that the copy can carry over, by name.
        rows: Rows read so far.
    """

    def __init__(self, conn: apsw.Connection, settings: Table, target: TargetTable) -> None:
        self._conn, self._settings, self._target = conn, settings, target
        self.shape = source_schema.shape(conn, target.name)
        self.rows = 0
        found = source_schema.columns(conn, target.name)
        self._findings = column_findings(found, target)
        alias = rowid_alias(conn, self.shape)
        unit = 1 if conn.execute("PRAGMA main.encoding").get == "UTF-8" else 2
        fixed = {key.name for key in self.shape.order}
        self.columns: dict[str, AssessedColumn] = {}
        for column in found:
            made = target.columns.get(column.name)
            if made is None or made.generated:
                continue
            try:
                self.columns[column.name] = assessed_column(
                    column,
                    target,
                    _effective(settings.columns.get(column.name)),
                    secret=column.name in settings.secret,
                    bytes_per_letter=unit,
                    is_rowid=column.name == alias,
                    is_fixed=column.name in fixed,
                )
            except Refused as refused:
                finding = Finding("type_without_way", "blocks", target.name, column.name, value=refused.found)
                self._findings.append(finding)

    def run(self, on_progress: Callable[[RowsRead], None] | None) -> list[Finding]:
        """Read the table and return all findings about it."""
        checks = self._checks()

        def report(rows: int) -> None:
            if on_progress is not None:
                on_progress(RowsRead(self._target.name, rows))

        scan = TableScan(
            self._conn, self.shape, list(self.columns.values()), checks, secret=self._settings.secret, on_rows=report
        )
        self._findings += scan.run()
        self.rows = scan.rows
        if self.rows > 1:
            indexes = self._target.indexes
            self._findings += duplicates(self._conn, self.shape, self.columns, indexes, self._settings.secret)
        return self._findings

    def _checks(self) -> list[RowCheck]:
        # A decision changes the value that a CHECK sees; columns with a collation of their own are not compared here.
        plain: Mapping[str, AssessedColumn] = {
            name: column
            for name, column in self.columns.items()
            if column.decision is None and name not in self._target.collations
        }
        found = []
        for check in self._target.checks:
            try:
                condition = translated(check.expression, {name: column.target for name, column in plain.items()})
            except Untranslatable as why:
                self._not_assessed(check.name, f"{check.expression}: {why}")
                continue
            becomes = f"nothing: {check.expression} is false"
            holds = " AND ".join(f"({one}) IS NOT FALSE" for one in (condition.sql, *condition.defined))
            found.append(RowCheck(check.name, condition.columns, holds, becomes))
        for check in self._target.others:
            self._not_assessed(check.name, check.expression)
        return found

    def _not_assessed(self, name: str, why: str) -> None:
        self._findings.append(Finding("check_not_assessed", "note", self._target.name, value=f"{name}: {why}"))


def _effective(decision: ColumnDecision | None) -> ColumnDecision | None:
    """Return the decision, or None when it decides nothing."""
    return None if decision is None or decision == ColumnDecision() else decision
