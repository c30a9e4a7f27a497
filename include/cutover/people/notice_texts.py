"""What each notice of a run says, in the plan's words, and when those are due that belong to later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from include.cutover.evidence.record import Event
from include.cutover.people.notices import Message, render
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.clock import Clock
from include.cutover.runs.terms import ABANDON, RELEASE, ROLLBACK
from include.cutover.runs.verdict import course, gate_answer, has_passed

SUBJECTS = {
    "start": "migration to PostgreSQL begins",
    "freeze": "change freeze before the migration to PostgreSQL",
    "delay": "migration to PostgreSQL still at work",
    "deadline": "no time left to go live on PostgreSQL",
    "completion": "migration complete",
    "rollback": "migration rolled back",
    "cancelled": "migration did not take place",
}
PARTS = {
    "delay.half": (0.5, "half of its window is over"),
    "delay.three_quarters": (0.75, "three quarters of its window are over"),
}
"""The notices between start and deadline: after which part of the window, and the same in words."""


def message(
    plan: Plan, notice: str, clock: Clock, *, run_id: str, reason: str = "", moment: datetime | None = None
) -> Message:
    """A notice as the plan writes it. The one of the start also announces the freeze.

    Args:
        reason: For ``<reason>``; left as it is, to be filled when the notice is sent, where it is empty.
        moment: For ``<time>``; the start of the window when left out.
    """
    kind = notice.partition(".")[0]
    freeze = clock.freeze
    if kind == "start":  # a run that begins now has nothing frozen before
        freeze = max(freeze, min(clock.start, datetime.now(UTC)))
    lead = plan.people.lead
    values = {
        "time": _when(moment or clock.start),
        "end": _when(clock.end),
        "minutes": str(plan.window.minutes),
        "freeze": _when(freeze),
        "deadline": _when(clock.deadline),
        "lead": f"{lead.name} ({lead.contact or lead.email})",
        "application": plan.application,
        "reason": reason or "<reason>",
        "run": run_id,
    }
    text = render(getattr(plan.notices, kind), values)
    if kind == "start" and plan.window.freeze_minutes:
        text += "\n\n" + render(plan.notices.freeze, values)
    timed = notice in PARTS or notice == "deadline"
    return Message(notice, f"{plan.application}: {SUBJECTS[kind]}", text, while_open=timed or kind == "freeze", lead=timed)


def ahead(plan: Plan, clock: Clock, *, run_id: str, now: datetime, announced: bool = False) -> list[Message]:
    """The notices of a run that the clock alone sends: the freeze, half time, three quarters, the deadline; those only whose
    time is still to come. The reason of the last three is known when they are sent.

    Args:
        announced: The start was announced some time ago, so that a freeze that has begun is told, too.
    """
    due = {name: clock.after(part) for name, (part, _) in PARTS.items()}
    due = {name: moment for name, moment in due.items() if moment < clock.deadline} | {"deadline": clock.deadline}
    if plan.window.freeze_minutes and (now < clock.freeze or (announced and now < clock.start)):
        due = {"freeze": clock.freeze, **due}
    messages = {name: message(plan, name, clock, run_id=run_id) for name, moment in due.items()}
    return [
        replace(messages[name], due=moment if moment > now else None)
        for name, moment in due.items()
        if moment > now or name == "freeze"
    ]


def reason(plan: Plan, notice: str, events: Sequence[Event]) -> str:
    """Why a notice of the clock is sent, with what is still left to do; for ``<reason>``."""
    if notice not in PARTS and notice != "deadline":
        return "no reason is recorded."
    began = PARTS[notice][1] if notice in PARTS else "the deadline is over and it is not live"
    if course(events) in (ABANDON, RELEASE, ROLLBACK):
        return f"{began}; it is on its way back to SQLite."
    return f"{began}; still to come: {', '.join(left(plan, events))}."


def left(plan: Plan, events: Sequence[Event]) -> list[str]:
    """What a run still has to do before it is live, in the words of people."""
    found = []
    for row in runbook.ROWS:
        if not row.ends_part:
            continue
        if row.mapped:
            open_tables = [name for name in plan.tables if not _copied(plan, name, events)]
            if open_tables:
                found.append(f"{row.ends_part} of {len(open_tables)} of {len(plan.tables)} tables")
        elif not has_passed(events, row.name):
            found.append(row.ends_part)
    asked = [event for event in events if event["event"] == "gate.asked"]
    if asked:
        answer = gate_answer(events, asked[-1]["gate"])
        if answer is None or answer["seq"] < asked[-1]["seq"]:
            found.insert(0, f"somebody's answer at {asked[-1]['gate']}")
    return found or ["the end"]


def _copied(plan: Plan, table: str, events: Sequence[Event]) -> bool:
    return all(has_passed(events, step) for step in runbook.copies(plan, table))


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
