"""A run's notices: posted in the plan's words, and sent. Those of the clock are posted when the run opens, and fall due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from include.cutover.evidence.record import Evidence
from include.cutover.masking import mask
from include.cutover.people import delivery, notice_texts, notices
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan
from include.cutover.runs import clock as clocks
from include.cutover.runs.clock import Clock

log = logging.getLogger("cutover")

SECONDS = 2.0
"""What a step spends on notices at its end, at most."""

Channels = Callable[[Plan], Sequence[Channel]]
_OPENED = ("run.opened", "schedule.opened", "aftercare.opened")


def clock_of(evidence: Evidence, plan: Plan) -> Clock:
    """The run's clock; for a run that opened without one, the clock of its window."""
    events = evidence.events() if evidence.exists else []
    found = clocks.read(events)
    if found is not None:
        return found
    start = next(
        (event["window_start"] for event in events if event["event"] in _OPENED and event.get("window_start")), None
    )
    return Clock.of(plan.window, datetime.now(UTC) if start is None else datetime.fromisoformat(start))


def post(
    evidence: Evidence, plan: Plan, notice: str, *, run_id: str, reason: str = "", moment: datetime | None = None
) -> None:
    """Record a notice; it is sent at the end of the step. Safe to call again."""
    message = notice_texts.message(plan, notice, clock_of(evidence, plan), run_id=run_id, reason=reason, moment=moment)
    notices.post(evidence, message, hold=hold(plan))


def post_ahead(evidence: Evidence, plan: Plan, *, run_id: str, announced: bool) -> None:
    """Record the notices that the clock sends, each with the instant when it is due. Safe to call again."""
    clock, now = clock_of(evidence, plan), datetime.now(UTC)
    for message in notice_texts.ahead(plan, clock, run_id=run_id, now=now, announced=announced):
        notices.post(evidence, message, hold=hold(plan))


def hold(plan: Plan) -> timedelta | None:
    """How long the communicator has for a notice; None where nobody is waited for."""
    return timedelta(minutes=plan.channels.release_minutes) if plan.channels.release == "communicator" else None


def wanted(evidence: Evidence) -> bool:
    """Whether the run's notices go to people at all, or into the evidence only."""
    opened = next((event for event in evidence.events() if event["event"] in _OPENED), {}) if evidence.exists else {}
    return bool(opened.get("notices", True))


def deliver(
    evidence: Evidence, plan: Plan, channels: Channels, *, seconds: float = SECONDS, patient: bool = True
) -> list[delivery.Delivery]:
    """Send what is ready and missing. Never fails: what could not be sent is in the evidence, or in the log."""
    try:
        if not evidence.exists or not notices.waiting(evidence.events(), names(plan), datetime.now(UTC), patient=patient):
            return []  # nothing to send is what most steps find: it costs no connection
        if not wanted(evidence):
            return []
        return delivery.drain(
            channels(plan),
            evidence,
            seconds=seconds,
            patient=patient,
            reason=lambda notice, events: notice_texts.reason(plan, notice, events),
        )
    except Exception as error:  # noqa: BLE001  # what a step has done does not depend on who hears of it
        log.warning("notices could not be sent now: %s", mask(str(error)))
        return []


def names(plan: Plan) -> list[str]:
    """Names of the channels that the plan has."""
    mail = plan.connections.mail is not None
    found = ["slack"] if plan.connections.slack is not None else []
    found += ["mail"] if mail else []
    return found + ([notices.LEAD] if mail and plan.people.lead.email not in plan.channels.mail_to else [])


def told(evidence: Evidence, notice: str, plan: Plan) -> tuple[list[str], list[str], str]:
    """Channels that have a notice, those that miss it, and both in words."""
    found = notices.outbox(evidence.events())[notice]
    sent = sorted(found.sent)
    missing = found.missing(names(plan)) if wanted(evidence) else []
    words = f"sent to {', '.join(sent)}" if sent else "sent to nobody"
    if missing and found.withheld_by:
        words += f", withheld by {found.withheld_by}"
    elif missing and datetime.now(UTC) < found.ready:
        words += f", held until {found.ready:%H:%M} UTC for the communicator"
    elif missing:
        words += f", not to {', '.join(missing)}"
    return sent, missing, words
