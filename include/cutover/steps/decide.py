"""Decides from the evidence: go on, abandon, release or roll back."""

from __future__ import annotations

from collections.abc import Sequence

from include.cutover.evidence.record import Event
from include.cutover.runs import clock as clocks
from include.cutover.runs import verdict
from include.cutover.runs.runbook import ACCESS, BEFORE, EXTRAS, FINISHING, GOING_LIVE, PROOFS
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Report, Step


def required_steps(step: Step, at: str) -> list[str]:
    """Names of the steps whose pass a branch needs; the copies come from the plan's tables, one for each stream."""
    required = [*BEFORE, *_copies(step), "restore_test", *FINISHING, *PROOFS]
    if step.plan.extras.required:
        required.append(EXTRAS)
    if step.plan.access is not None:
        required.append(ACCESS)
    return required if at == "decide" else [*required, *GOING_LIVE]


def _copies(step: Step) -> list[str]:
    copies = []
    for name, table in step.plan.tables.items():
        copies += [f"copy.{name}"] if table.streams == 1 else [f"copy.{name}.{stream}" for stream in range(table.streams)]
    return copies


def _later(step: Step, at: str) -> dict[str, Sequence[str]]:
    """A proof holds for what was written before it; what went live was looked at afterwards."""
    written = [*_copies(step), *FINISHING]
    later: dict[str, Sequence[str]] = {proof: written for proof in PROOFS if proof != "validate_foreign_keys"}
    if at == "decide_live":
        later |= {"start_services": ["switch_configuration"], "smoke_test_application": ["start_services"]}
    return later


def decide(step: Step, *, at: str) -> Report:
    """Read the evidence and choose: go on, abandon, release or roll back. What was chosen once stays, but for a go."""
    events = step.evidence.events()
    course = verdict.course(events)
    if course in ("abandon", "release", "rollback", "live"):
        chosen = _again(events, course)
    else:
        gates = ("go_no_go",) if at == "decide" else ("go_no_go", "approve")
        late = _late(events, at)
        chosen = verdict.decide(
            events,
            required=required_steps(step, at),
            gates=gates,
            entitled=step.entitled,
            changed=step.changed if at == "decide" else (),
            late=late,
            later=_later(step, at),
        )
        step.evidence.append("decision", at=at, outcome=chosen.outcome, why=list(chosen.why))
        if chosen.outcome == "go_on" and at == "decide_live":
            step.evidence.append("live")
        elif late and chosen.outcome != "go_on":
            notice_steps.post(step.evidence, step.plan, "deadline", run_id=step.run_id, reason=f"{late}; it goes back.")
    figures = {"outcome": chosen.outcome, "why": list(chosen.why)}
    return Report(f"{chosen.outcome}: {chosen.why[0]}", figures, warnings=_extras_missing(step))


def _late(events: list[Event], at: str) -> str:
    """Why there is no time left to go live. What is live already stays so: only what came too late before that counts."""
    found = clocks.read(events)
    return verdict.late(events) or (found.late(at) if found is not None and at == "decide" else "")


def _extras_missing(step: Step) -> list[str]:
    """That nobody knows of the extras: their step may have been killed, or taken out by a person. What it says, it says."""
    if not step.plan.extras.wanted or verdict.has_passed(step.evidence.events(), EXTRAS):
        return []
    return [f"the extras of the plan are not known to be kept: {EXTRAS} did not pass"]


def _again(events: list[Event], course: str) -> verdict.Decision:
    """What was decided before; a rollback may also have begun where nothing could be decided."""
    if course == "live":
        return verdict.Decision("go_on", ("the run is live",))
    for event in events:
        if event["event"] == "decision" and event["outcome"] == course:
            return verdict.Decision(event["outcome"], tuple(event["why"]))
    return verdict.Decision("rollback", ("the rollback has begun",))
