"""Assesses a whole source: tables, keys, references, sequences, objects, and the plan's decisions about them.

Each table is read once, by SQLite itself, against the columns that the plan's SQL makes: ``scan`` reads the rows, ``values``
judges single values. A decision of the plan turns a finding that would block into ``decision applied``; ``decided`` carries
the decisions out on a copy and assesses the result again. docs/assessment.md lists what an assessment cannot find; the copy
and the proof of equal content check every value again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from include.cutover.assessment import expressions
from include.cutover.assessment.columns import AssessedColumn
from include.cutover.assessment.findings import Assessment, Finding, ordered
from include.cutover.assessment.names import table_findings
from include.cutover.assessment.objects import object_findings
from include.cutover.assessment.references import References
from include.cutover.assessment.sequences import sequence_findings
from include.cutover.assessment.tables import RowsRead, TableAssessment
from include.cutover.assessment.target import Target
from include.cutover.decisions.fit import misfits
from include.cutover.plan.model import Plan
from include.cutover.proof import canonical
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.source.schema import TableShape

log = logging.getLogger(__name__)

_CODES_OF = {
    "empty_as_null": {"empty_text"},
    "strip_nul": {"nul_in_text", "nul_in_json"},
    "encoding": {"not_utf8", "blob_in_text"},
    "datetime": {"number_in_datetime"},
    "boolean": {"not_boolean"},
    "orphans": {"orphans", "orphans_that_follow"},
}


def assess(
    snapshot: Path,
    plan: Plan,
    target: Target,
    *,
    name: str | None = None,
    on_progress: Callable[[RowsRead], None] | None = None,
) -> Assessment:
    """Assess everything in a source.

    It changes and keeps nothing, so it can run again at any time. It needs some ten megabytes of memory, or a few times the
    size of the widest row.

    Args:
        snapshot: A clone or a backup that passed SQLite's integrity check.
        plan: The plan with the decisions.
        target: The target that the plan's SQL makes; see ``target.read_target``.
        name: Name of the source in the result; the snapshot's file name when left out.
        on_progress: Called after every block of rows. An error that it raises ends the assessment.

    Raises:
        CannotCheck: When the snapshot cannot be read, is empty, or is not the plan's application.
    """
    began = time.monotonic()
    findings, rows = _find(snapshot, plan, target, on_progress)
    seconds = round(time.monotonic() - began, 3)
    result = Assessment(plan.name, name or snapshot.name, ordered(findings), rows, seconds)
    log.info(
        "assessed %d rows of %d tables in %.1f s: %d findings block", result.rows, len(rows), seconds, len(result.blocks)
    )
    return result


def _find(
    snapshot: Path, plan: Plan, target: Target, on_progress: Callable[[RowsRead], None] | None
) -> tuple[list[Finding], dict[str, int]]:
    """Return all findings about the source as it is, and the number of rows of each table."""
    with snapshots.snapshot(snapshot) as conn:
        canonical.prepare(conn)
        expressions.prepare(conn)
        there = source_schema.tables(conn)
        source_schema.require_application(there, plan.tables, plan.name, snapshot)
        findings = table_findings(conn, plan, target)
        shapes: dict[str, TableShape] = {}
        columns: dict[str, dict[str, AssessedColumn]] = {}
        rows: dict[str, int] = {}
        for table in sorted(set(there) & set(plan.tables) & set(target.tables)):
            assessment = TableAssessment(conn, plan.tables[table], target.tables[table])
            shapes[table], columns[table] = assessment.shape, assessment.columns
            findings += assessment.run(on_progress)
            rows[table] = assessment.rows
        findings += References(conn, plan, target.foreign_keys, shapes, columns).findings()
        findings += sequence_findings(conn, shapes, target)
        findings += object_findings(conn, plan, target)
    findings += _misfits(plan, target, columns)
    findings += _unused(plan, findings, there)
    return findings, rows


def _misfits(plan: Plan, target: Target, columns: Mapping[str, Mapping[str, AssessedColumn]]) -> list[Finding]:
    """Find decisions that can never be carried out, each with its path in the plan."""
    faults = misfits(plan, target.planned)
    for table in sorted(set(plan.tables) & set(plan.ignored_tables)):
        faults.append(f"ignored_tables.{table}: it is also under tables")
    for table, known in columns.items():
        for name in plan.tables[table].columns:
            path = f"tables.{table}.columns.{name}"
            if name in known and known[name].source.generated:
                faults.append(f"{path}: computed by the source")
            elif name not in known and not any(fault.startswith((f"{path}:", f"{path}.")) for fault in faults):
                faults.append(f"{path}: the source has no such column")
    return [Finding("decision_misfit", "blocks", value=fault) for fault in faults]


def _unused(plan: Plan, findings: Sequence[Finding], tables: Iterable[str]) -> list[Finding]:
    """Find decisions that no row needs: the data were corrected, or a name is wrong."""
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
