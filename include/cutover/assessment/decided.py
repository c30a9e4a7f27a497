"""Assesses the result of the plan's decisions: they are carried out on a clone, and the clone is assessed.

Only that shows the effect of one changed row on another: two texts that become equal without their NUL characters, a
reference that is set to NULL although other rows depend on it, a CHECK or a foreign key that reads a decided column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from include.cutover import files
from include.cutover.assessment.assess import assess
from include.cutover.assessment.findings import Assessment, Finding, ordered
from include.cutover.assessment.tables import RowsRead
from include.cutover.assessment.target import Target
from include.cutover.decisions.apply import apply_decisions
from include.cutover.errors import CannotCheck, CutoverError, PlanInvalid, Refused, WrongData
from include.cutover.plan.model import Plan

_NOT_ASSESSED = frozenset({"check_not_assessed", "key_not_assessed", "orphans_not_assessed"})
_BYTES_PER_ROW = 1 << 10  # of the record of a row that a decision touches
_MARGIN = 4 << 20


def assess_decided(
    snapshot: Path,
    plan: Plan,
    target: Target,
    *,
    name: str | None = None,
    on_progress: Callable[[RowsRead], None] | None = None,
) -> Assessment:
    """Assess a source; when nothing blocks and decisions touch rows, assess their result too.

    Args:
        snapshot: A clone that only this call uses: the decided snapshot is made beside it and stays there.
        plan: The plan with the decisions.
        target: The target that the plan's SQL makes.
        name: Name of the source in the result; the snapshot's file name when left out.
        on_progress: Called after every block of rows. An error that it raises ends the assessment.

    Raises:
        Refused: When the disk has no space for the decided snapshot.
        The errors of ``assess``.
    """
    found = assess(snapshot, plan, target, name=name, on_progress=on_progress)
    touched = found.of("decision applied")
    left_open = any(item.code in _NOT_ASSESSED for item in found.findings) and any(
        settings.columns for settings in plan.tables.values()
    )
    if found.blocks or not (touched or left_open):
        return found
    rows = sum(item.rows for item in touched)
    files.require_space({snapshot.parent: snapshot.stat().st_size + rows * _BYTES_PER_ROW + _MARGIN})
    try:
        decided = apply_decisions(snapshot, snapshot.with_name(f"{snapshot.name}.decided"), plan, target.planned)
    except (PlanInvalid, Refused, WrongData, CannotCheck) as error:
        return replace(found, findings=ordered([*found.findings, _failed(error, plan)]))
    if not (decided.made or left_open):
        return found
    undecided = {
        table: settings.model_copy(update={"columns": {}, "foreign_keys": {}}) for table, settings in plan.tables.items()
    }
    left = assess(decided.file, plan.model_copy(update={"tables": undecided}), target, name=name, on_progress=on_progress)
    findings = [item for item in found.findings if item.code not in _NOT_ASSESSED]
    findings += [
        replace(item, becomes=f"{item.becomes} (after the decisions)", decide="") if item.severity == "blocks" else item
        for item in left.findings
        if item.severity == "blocks" or item.code in _NOT_ASSESSED
    ]
    return replace(found, findings=ordered(findings), seconds=round(found.seconds + left.seconds, 3))


def _failed(error: CutoverError, plan: Plan) -> Finding:
    """Return the finding about decisions that failed, with the table and the column of the error.

    Raises:
        CannotCheck: When the error is not about a table: then nothing was assessed.
    """
    for table in sorted(plan.tables, key=len, reverse=True):
        if error.where == f"table {table}" or error.where.startswith((f"table {table}, ", f"{table}.")):
            column = error.where.partition(", column ")[2].partition(",")[0]
            return Finding(
                "decision_fails",
                "blocks",
                table,
                column if column in plan.tables[table].columns else "",
                value=str(error),
                becomes=f"nothing: {error.message}" + (f" ({error.found})" if error.found else ""),
            )
    if isinstance(error, CannotCheck):
        raise error
    return Finding("decision_fails", "blocks", value=str(error))
