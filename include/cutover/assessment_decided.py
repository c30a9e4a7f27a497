"""The assessment of what the plan's decisions would leave: they are tried on a clone, and the result is assessed again.

What one changed row does to another shows only then: two texts that become one without their NUL characters, a reference
that is set to NULL although other rows rely on it, a CHECK or a foreign key that reads a decided column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from include.cutover import decisions, files
from include.cutover.assessment import Progress, assess
from include.cutover.assessment_findings import Assessment, Finding, ordered
from include.cutover.assessment_target import Target
from include.cutover.errors import PlanInvalid, Refused, WrongData
from include.cutover.plan import Plan

_NOT_ASSESSED = frozenset({"check_not_assessed", "key_not_assessed", "orphans_not_assessed"})
_BYTES_PER_ROW = 1 << 10  # of what is recorded about a row that a decision touches
_MARGIN = 4 << 20


def assess_decided(
    snapshot: Path,
    plan: Plan,
    target: Target,
    *,
    name: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Assessment:
    """``assess``, and, when nothing blocks and decisions touch a row, another look at what they leave.

    Args:
        snapshot: A clone that is this call's alone: the decided snapshot is made beside it, and stays there.

    Raises:
        Refused: When there is no room for the decided snapshot.
        The errors of ``assess``.
    """
    found = assess(snapshot, plan, target, name=name, on_progress=on_progress)
    touched = found.of("decision applied")
    if found.blocks or not touched:
        return found
    rows = sum(item.rows for item in touched)
    files.require_space({snapshot.parent: snapshot.stat().st_size + rows * _BYTES_PER_ROW + _MARGIN})
    try:
        decided = decisions.apply(snapshot, snapshot.with_name(f"{snapshot.name}.decided"), plan, target.planned)
    except (PlanInvalid, Refused, WrongData) as error:
        failure = Finding("decision_fails", "blocks", value=str(error))
        return replace(found, findings=ordered([*found.findings, failure]))
    if not decided.made:
        return found
    undecided = {
        table: settings.model_copy(update={"columns": {}, "foreign_keys": {}}) for table, settings in plan.tables.items()
    }
    left = assess(decided.file, plan.model_copy(update={"tables": undecided}), target, name=name, on_progress=on_progress)
    findings = [item for item in found.findings if item.code not in _NOT_ASSESSED]
    findings += [
        replace(item, becomes=f"{item.becomes} (as the decisions leave it)", decide="")
        if item.severity == "blocks"
        else item
        for item in left.findings
        if item.severity == "blocks" or item.code in _NOT_ASSESSED
    ]
    return replace(found, findings=ordered(findings), seconds=round(found.seconds + left.seconds, 3))
