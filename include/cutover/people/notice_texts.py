"""The texts of a run's notices, from the plan's templates, and the times at which the clock's notices are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from include.cutover.evidence.record import Event
from include.cutover.masking import one_line
from include.cutover.people.notices import Message, render
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.clock import Clock
from include.cutover.runs.terms import ABANDON, RELEASE, ROLLBACK
from include.cutover.runs.verdict import course, gate_answer, has_passed

SUBJECTS = {
    "start": "migration to PostgreSQL begins",
    "freeze": "change freeze before the migration to PostgreSQL",
    "delay": "migration to PostgreSQL is still running",
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
    """Return a notice in the plan's words. The start notice also announces the freeze.

    Args:
        plan: The plan.
        notice: Its name, e.g. ``start`` or ``delay.half``.
        clock: The run's clock.
        run_id: For ``<run>``.
        reason: For ``<reason>``; when empty, the placeholder stays and is filled when the notice is sent.
        moment: For ``<time>``; the start of the window when left out.
    """
    kind = notice.partition(".")[0]
    freeze = clock.freeze
    if kind == "start":  # a run that begins now had no freeze before
        freeze = max(freeze, min(clock.start, datetime.now(UTC)))
    lead = plan.people.lead
    values = {
        "time": when(plan, moment or clock.start),
        "end": when(plan, clock.end),
        "minutes": str(plan.window.minutes),
        "freeze": when(plan, freeze),
        "deadline": when(plan, clock.deadline),
        "lead": f"{lead.name} ({lead.contact or lead.email})",
        "application": plan.application,
        "reason": one_line(reason) or "<reason>",
        "run": run_id,
    }
    text = render(getattr(plan.notices, kind), values)
    if kind == "start" and plan.window.freeze_minutes:
        text += "\n\n" + render(plan.notices.freeze, values)
    timed = notice in PARTS or notice == "deadline"
    return Message(notice, f"{plan.application}: {SUBJECTS[kind]}", text, while_open=timed or kind == "freeze", lead=timed)


def ahead(plan: Plan, clock: Clock, *, run_id: str, now: datetime, announced: bool = False) -> list[Message]:
    """Return the notices that the clock alone sends: the freeze, half time, three quarters, the deadline.

    Only those whose time is still ahead. The reason of the last three is filled in when they are sent.

    Args:
        plan: The plan.
        clock: The run's clock.
        run_id: For ``<run>``.
        now: The instant to decide for.
        announced: The start was announced earlier, so a freeze that has already begun is announced too.
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
    """Return why a notice of the clock is sent, and the remaining parts of the run; for ``<reason>``."""
    if notice not in PARTS and notice != "deadline":
        return "no reason was recorded."
    began = PARTS[notice][1] if notice in PARTS else "the deadline has passed and it is not live"
    if course(events) in (ABANDON, RELEASE, ROLLBACK):
        return f"{began}; the run goes back to SQLite."
    return f"{began}; remaining: {', '.join(left(plan, events))}."


def left(plan: Plan, events: Sequence[Event]) -> list[str]:
    """Return the remaining parts of a run before it is live, in plain words."""
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
            found.insert(0, f"an answer at the gate {asked[-1]['gate']}")
    return found or ["closing the run"]


def _copied(plan: Plan, table: str, events: Sequence[Event]) -> bool:
    return all(has_passed(events, step) for step in runbook.copies(plan, table))


def when(plan: Plan, moment: datetime) -> str:
    """Return an instant in UTC and, where the plan's people live elsewhere, in the plan's time zone with its offset then."""
    text, name = f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC", plan.window.time_zone
    if name == "UTC":
        return text
    local = moment.astimezone(ZoneInfo(name))
    offset = local.strftime("%z")
    return f"{text} ({local:%Y-%m-%d %H:%M} {name}, UTC{offset[:3]}:{offset[3:5]})"
