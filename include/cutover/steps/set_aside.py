"""Shuts the application out of the target and sets the schema aside: renames it, and never drops it."""

from __future__ import annotations

from include.cutover.aftercare import rows_since_go_live
from include.cutover.evidence.record import Evidence, runs
from include.cutover.steps.step import Step
from include.cutover.target import fence as target_fence
from include.cutover.target import ledger
from include.cutover.target import schema as target_schema


def finish_pending(step: Step) -> list[str]:
    """Set aside the schemas that earlier rollbacks had to leave because the target was down. Return their new names."""
    return [
        set_schema_aside(step, run, run_id).name
        for run, run_id in pending(step.plan.name)
        if run.folder != step.evidence.folder
    ]


def pending(plan: str) -> list[tuple[Evidence, str]]:
    """Return the runs whose schema is not set aside yet, with their run ids."""
    found = []
    for run in runs(plan):
        left, kept = run.last("target.pending"), run.last("target.kept")
        if left is not None and (kept is None or kept["seq"] < left["seq"]):
            found.append((run, str(left["run_id"])))
    return found


def set_schema_aside(step: Step, evidence: Evidence, run_id: str) -> target_schema.KeptSchema:
    """Shut run and application out of the target, export the rows that the application wrote, and rename the schema.

    Safe to run again.
    """
    epoch = ledger.take_over(step.target, run_id, step.holder)
    guard, schema = ledger.guard(run_id, epoch), step.plan.target_schema
    shut_out(step, evidence, guard)
    kept = target_schema.keep_schema(
        step.target,
        schema,
        run_id,
        guard,
        before=lambda connection: rows_since_go_live.record_export(evidence, schema, connection),
    )
    ledger.release(step.target, run_id, epoch)
    evidence.append("target.kept", schema=kept.name, rows=dict(kept.rows), by=step.holder)
    return kept


def shut_out(step: Step, evidence: Evidence, guard: ledger.Guard) -> str:
    """Shut the application's role out of the target; for an earlier run, the role of that run. Safe to run again."""
    taken = evidence.last("lease.target") or {}
    role = taken.get("application_role") or step.ends.application_role(step.plan)
    if role is None:
        return "the plan moves no application"
    ended = target_fence.shut_out(step.target, step.plan.target_schema, role, step.plan.target_fence, guard)
    evidence.append("target.fence", raised=True, role=role, way=step.plan.target_fence, sessions_ended=ended)
    return f"the role {role} is shut out" + (f", {ended} sessions of it were ended" if ended else "")
