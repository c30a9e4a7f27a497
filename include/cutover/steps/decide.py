"""Decides from the evidence: go on, abandon, release or roll back."""

from __future__ import annotations

from include.cutover.evidence.record import Event
from include.cutover.runs import clock as clocks
from include.cutover.runs import runbook, verdict
from include.cutover.runs.row import Point
from include.cutover.runs.terms import ABANDON, LIVE, RELEASE, ROLLBACK
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Report, Step


def decide(step: Step, *, at: str) -> Report:
    """Read the evidence and choose: go on, abandon, release or roll back. A chosen way back is final; a go is not.

    Args:
        step: The step.
        at: The name under which the decision is recorded: that of the step in the runbook.
    """
    events, point = step.evidence.events(), runbook.row_of(at).decides
    if point is None:
        raise LookupError(f"the step {at} decides nothing, by its row in the runbook")
    course = verdict.course(events)
    if course in (ABANDON, RELEASE, ROLLBACK, LIVE):
        chosen = _again(events, course)
    else:
        before_going_live = point is Point.GO_LIVE
        late = _late(events, at, check_clock=before_going_live)
        chosen = verdict.decide(
            events,
            required=runbook.required(step.plan, point),
            gates=runbook.required_gates(step.plan, point),
            entitled=step.entitled,
            changed=step.changed if before_going_live else (),
            late=late,
            later=runbook.later(step.plan, point),
        )
        step.evidence.append("decision", at=at, outcome=chosen.outcome, why=list(chosen.why))
        if chosen.outcome == "go_on" and point is Point.STAY_LIVE:
            step.evidence.append("live")
        elif late and chosen.outcome != "go_on":
            notice_steps.post(step.evidence, step.plan, "deadline", run_id=step.run_id, reason=f"{late}; it goes back.")
    figures = {"outcome": chosen.outcome, "why": list(chosen.why)}
    return Report(f"{chosen.outcome}: {chosen.why[0]}", figures, warnings=_extras_missing(step, events))


def _late(events: list[Event], at: str, *, check_clock: bool) -> str:
    """Return why there is no time left to go live.

    A run that is live stays live: after going live only a refusal of an earlier step counts, and not the clock.
    """
    found = clocks.read(events)
    return verdict.late(events) or (found.late(at) if found is not None and check_clock else "")


def _extras_missing(step: Step, events: list[Event]) -> list[str]:
    """Warn of extras without a recorded pass: their step may have been killed, or removed by a person."""
    if not step.plan.extras.wanted or verdict.has_passed(events, runbook.SNAPSHOT_EXTRAS):
        return []
    return [f"the plan's extras may not be kept: {runbook.SNAPSHOT_EXTRAS} did not pass"]


def _again(events: list[Event], course: str) -> verdict.Decision:
    """Return the earlier decision; a rollback may also have begun before anything was decided."""
    if course == LIVE:
        return verdict.Decision("go_on", ("the run is live",))
    for event in events:
        if event["event"] == "decision" and event["outcome"] == course:
            return verdict.Decision(event["outcome"], tuple(event["why"]))
    return verdict.Decision(ROLLBACK, ("the rollback has begun",))
