"""Ends a run that stopped nothing."""

from __future__ import annotations

import psycopg

from include.cutover.errors import CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.steps.announce import announce
from include.cutover.steps.step import Report, Step
from include.cutover.target import drop


def call_off(step: Step) -> Report:
    """Drop the empty tables that this run made, and post the notice that it was called off. Safe to run again."""
    if step.evidence.last("lease.target", holder=step.holder) is None:
        cleared = "the target was not touched"
    else:
        try:
            dropped = drop.drop_empty_schema_objects(step.target, step.plan.target_schema, step.run_id, step.guard)
            cleared = f"{len(dropped)} empty tables dropped"
        except (CutoverError, psycopg.Error) as error:
            step.evidence.append("target.pending", run_id=step.run_id)
            cleared = f"the next run sets the target aside, as it could not be cleared: {str(error).strip().splitlines()[0]}"
    if step.evidence.last("notice", notice="start") is not None:
        announce(step, notice="cancelled", reason=_first_reason(step.evidence))
    return Report(f"called off; {cleared}")


def _first_reason(evidence: Evidence) -> str:
    decided = evidence.last("decision")
    why = decided["why"][0] if decided and decided["why"] else "it was called off"
    return f"{str(why)[:200].rstrip('.')}."
