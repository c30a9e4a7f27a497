"""Waits for the start of the window."""

from __future__ import annotations

from include.cutover.errors import CannotCheck, Refused
from include.cutover.preflight.places import check_rights
from include.cutover.runs import runbook, schema_drift
from include.cutover.source import cloning
from include.cutover.source import schema as source_schema
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.preflight import count
from include.cutover.steps.step import Report, Step


def wait_for_window(step: Step) -> Report:
    """Refuse to stop anything before the window begins, or when the source's schema changed since preflight.

    Hours may lie between preflight and the window: the rights that every later step and the way back need are checked anew.

    From the freeze on only the run changes the application; plan, SQL and code are checked before each step. Safe to run
    again.

    Raises:
        Refused: When it is too early, or the schema changed.
    """
    clock = notice_steps.clock_of(step.evidence, step.plan)
    if clock.until_start():
        raise Refused(
            "the window has not begun",
            where=step.run_id,
            expected=f"{clock.start:%Y-%m-%d %H:%M:%S} UTC or later",
            found=clock.disagreement(),
            do="Clear this task after that time.",
        )
    recorded = step.evidence.last(schema_drift.EVENT)
    if recorded is None:
        raise CannotCheck(
            "the schema that preflight checked is not recorded", where=step.run_id, do=f"Run {runbook.CHECK_SOURCE} first."
        )
    others = step.plan.source_other_names
    with cloning.live_schema(step.source, step.plan.backup.directory, others=others) as connection:
        objects = source_schema.schema_objects(connection)
        fingerprint = source_schema.schema_fingerprint(connection)
    if fingerprint != recorded["fingerprint"]:
        raise Refused(
            "the source's schema has changed since preflight checked it",
            where=str(step.source),
            expected="nothing but the run's own changes from the freeze on",
            found=str(schema_drift.between(recorded["objects"], objects)),
            do="Nothing was stopped. Find out who changed it, then start a new run.",
        )
    checks = check_rights(step.source, plan=step.plan)
    if any(check.outcome != "passed" for check in checks):
        return Report(f"nothing was stopped: {count(checks)}", {}, checks)
    return Report(
        f"the window has begun; it ends at {clock.end:%H:%M} UTC, the deadline is {clock.deadline:%H:%M} UTC", {}, checks
    )
