"""The assessment: everything in a source that would stop a cutover or change a value, found before anything is stopped.

Each table is read once, by SQLite itself, against the columns that the plan's SQL really makes; see ``assessment_scan`` for
how, ``assessment_values`` for what a value may be, ``assessment_keys`` for unique and foreign keys, ``assessment_objects``
for what is no row. Decisions of the plan turn what would block into ``decision applied``; where nothing else blocks they are
carried out on a copy, and what that leaves is assessed again. What it cannot find stands in docs/assessment.md; the copy and
the proof of equal content come after it and take nothing on trust.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from include.cutover.assessment import expressions
from include.cutover.assessment.columns import AssessedColumn, assessed_column, rowid_alias
from include.cutover.assessment.expressions import Untranslatable, translated
from include.cutover.assessment.findings import CODES, Assessment, Finding, ordered
from include.cutover.assessment.keys import References, duplicates
from include.cutover.assessment.objects import column_findings, object_findings, sequence_findings, table_findings
from include.cutover.assessment.scan import RowCheck, TableScan
from include.cutover.assessment.target import Target, TargetTable, read_target
from include.cutover.decisions import decided as decisions
from include.cutover.errors import Refused
from include.cutover.plan.model import Plan
from include.cutover.plan.tables import ColumnDecision, Table
from include.cutover.proof import canonical
from include.cutover.source import schema as source_schema
from include.cutover.source.schema import Shape

__all__ = ["CODES", "Assessment", "Finding", "Progress", "assess", "read_target"]

log = logging.getLogger(__name__)

_CODES_OF = {
    "empty_as_null": {"empty_text"},
    "strip_nul": {"nul_in_text", "nul_in_json"},
    "encoding": {"not_utf8", "blob_in_text"},
    "datetime": {"number_in_datetime"},
    "boolean": {"not_boolean"},
    "orphans": {"orphans", "orphans_that_follow"},
}


@dataclass(frozen=True)
class Progress:
    """How far the assessment is: the table in hand and the rows of it that were read."""

    table: str
    rows: int


def assess(
    snapshot: Path,
    plan: Plan,
    target: Target,
    *,
    name: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Assessment:
    """Look at everything in a source.

    Nothing is changed and nothing is kept: it can run again at any time. Memory stays at some ten megabytes, or some
    multiples of the widest row.

    Args:
        snapshot: A clone or a backup; see ``source.open_snapshot``. It should have passed ``source.integrity``.
        target: What the plan's SQL makes; see ``read_target``.
        name: How the source is called in the result; the snapshot's file name when left out.
        on_progress: Called after every block of rows. What it raises ends the assessment.

    Raises:
        CannotCheck: When the snapshot cannot be read, is empty, or is not the plan's application.
    """
    began = time.monotonic()
    findings, rows = _looked_at(snapshot, plan, target, on_progress)
    seconds = round(time.monotonic() - began, 3)
    result = Assessment(plan.name, name or snapshot.name, ordered(findings), rows, seconds)
    log.info(
        "assessed %d rows of %d tables in %.1f s: %d findings block", result.rows, len(rows), seconds, len(result.blocks)
    )
    return result


def _looked_at(
    snapshot: Path, plan: Plan, target: Target, on_progress: Callable[[Progress], None] | None
) -> tuple[list[Finding], dict[str, int]]:
    """All findings about the source as it stands, and the rows of each table."""
    with source_schema.snapshot(snapshot) as conn:
        canonical.prepare(conn)
        expressions.prepare(conn)
        there = source_schema.tables(conn)
        source_schema.require_application(there, plan.tables, plan.name, snapshot)
        findings = table_findings(conn, plan, target)
        shapes: dict[str, Shape] = {}
        columns: dict[str, dict[str, AssessedColumn]] = {}
        rows: dict[str, int] = {}
        for table in sorted(set(there) & set(plan.tables) & set(target.tables)):
            looked_at = _TableAssessment(conn, plan.tables[table], target.tables[table])
            shapes[table], columns[table] = looked_at.shape, looked_at.columns
            findings += looked_at.run(on_progress)
            rows[table] = looked_at.rows
        findings += References(conn, plan, target.foreign_keys, shapes, columns).findings()
        findings += sequence_findings(conn, shapes, target)
        findings += object_findings(conn, plan, target)
    findings += _misfits(plan, target, columns)
    findings += _unused(plan, findings, there)
    return findings, rows


def _misfits(plan: Plan, target: Target, columns: Mapping[str, Mapping[str, AssessedColumn]]) -> list[Finding]:
    """Decisions that can never be carried out, each with its path in the plan."""
    faults = decisions.misfits(plan, target.planned)
    for table in sorted(set(plan.tables) & set(plan.ignored_tables)):
        faults.append(f"ignored_tables.{table}: it stands under tables too")
    for table, known in columns.items():
        for name in plan.tables[table].columns:
            path = f"tables.{table}.columns.{name}"
            if name in known and known[name].source.generated:
                faults.append(f"{path}: computed by the source")
            elif name not in known and not any(fault.startswith((f"{path}:", f"{path}.")) for fault in faults):
                faults.append(f"{path}: the source has no such column")
    return [Finding("decision_misfit", "blocks", value=fault) for fault in faults]


def _unused(plan: Plan, findings: Sequence[Finding], tables: Iterable[str]) -> list[Finding]:
    """Decisions that no row asks for: the data were corrected, or a name is wrong."""
    asked = {(item.table, item.column, item.code) for item in findings}
    about = {(item.table, item.value.split(" → ")[0]) for item in findings if item.code in _CODES_OF["orphans"]}
    unused = []
    for table in sorted(set(plan.ignored_tables) - set(tables)):
        unused.append(
            Finding("decision_unused", "note", table, value=f"ignored_tables.{table}: the source has no such table")
        )
    for table, settings in plan.tables.items():
        for column, decision in settings.columns.items():
            for kind, value in decision.model_dump(exclude_defaults=True).items():
                if value != "iso" and not any((table, column, code) in asked for code in _CODES_OF[kind]):
                    unused.append(Finding("decision_unused", "note", table, column, value=kind))
        for key, choice in settings.foreign_keys.items():
            if choice.orphans != "block" and (table, key) not in about:
                unused.append(Finding("decision_unused", "note", table, value=f"{key}: {choice.orphans}"))
    return unused


class _TableAssessment:
    """Everything about one table and its own rows."""

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

    def run(self, on_progress: Callable[[Progress], None] | None) -> list[Finding]:
        """All findings about the table."""
        checks = self._checks()

        def tell(rows: int) -> None:
            if on_progress is not None:
                on_progress(Progress(self._target.name, rows))

        scan = TableScan(
            self._conn, self.shape, list(self.columns.values()), checks, secret=self._settings.secret, on_rows=tell
        )
        self._findings += scan.run()
        self.rows = scan.rows
        if self.rows > 1:
            indexes = self._target.indexes
            self._findings += duplicates(self._conn, self.shape, self.columns, indexes, self._settings.secret)
        return self._findings

    def _checks(self) -> list[RowCheck]:
        # A decision changes what a CHECK will see; what is compared by a collation of its own is not compared here.
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
    """The decision, unless it decides nothing."""
    return None if decision is None or decision == ColumnDecision() else decision
