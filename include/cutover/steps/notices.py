"""Posts and sends the notices of a run. Those of the clock are posted when the run opens, and sent when they are due."""

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
"""How long a step sends notices at its end, at most."""

Channels = Callable[[Plan], Sequence[Channel]]
_OPENED = ("run.opened", "schedule.opened", "aftercare.opened")


def clock_of(evidence: Evidence, plan: Plan) -> Clock:
    """Return the run's clock; for a run that opened without one, the clock of its window."""
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
    """Record a notice; it is sent at the end of the step. Safe to call again.

    Args:
        evidence: The run's evidence.
        plan: The plan.
        notice: Its kind.
        run_id: The run.
        reason: For ``<reason>``.
        moment: For ``<time>``; the start of the window when left out.
    """
    message = notice_texts.message(plan, notice, clock_of(evidence, plan), run_id=run_id, reason=reason, moment=moment)
    notices.post(evidence, message, hold=hold(plan))


def post_ahead(evidence: Evidence, plan: Plan, *, run_id: str, announced: bool) -> None:
    """Record the notices that the clock sends, each with the instant when it is due. Safe to call again.

    Args:
        evidence: The run's evidence.
        plan: The plan.
        run_id: The run.
        announced: The start was announced some time ago; see ``notice_texts.ahead``.
    """
    clock, now = clock_of(evidence, plan), datetime.now(UTC)
    for message in notice_texts.ahead(plan, clock, run_id=run_id, now=now, announced=announced):
        notices.post(evidence, message, hold=hold(plan))


def hold(plan: Plan) -> timedelta | None:
    """Return how long a notice waits for the communicator; None where it does not wait."""
    return timedelta(minutes=plan.channels.release_minutes) if plan.channels.release == "communicator" else None


def wanted(evidence: Evidence) -> bool:
    """Report whether the run's notices are sent, or written into the evidence only."""
    opened = next((event for event in evidence.events() if event["event"] in _OPENED), {}) if evidence.exists else {}
    return bool(opened.get("notices", True))


def deliver(
    evidence: Evidence, plan: Plan, channels: Channels, *, seconds: float = SECONDS, patient: bool = True
) -> list[delivery.Delivery]:
    """Send the notices that are ready. Never fails: an error is in the evidence, or in the log.

    Args:
        evidence: The run's evidence.
        plan: The plan.
        channels: Gives the plan's channels; called only when there is something to send.
        seconds: Time limit.
        patient: Wait longer before another try the more often a channel failed.

    Returns:
        One delivery for each notice and channel that was tried.
    """
    try:
        if not evidence.exists or not notices.waiting(evidence.events(), names(plan), datetime.now(UTC), patient=patient):
            return []  # most steps have nothing to send; that must not cost a connection
        if not wanted(evidence):
            return []
        return delivery.drain(
            channels(plan),
            evidence,
            seconds=seconds,
            patient=patient,
            reason=lambda notice, events: notice_texts.reason(plan, notice, events),
        )
    except Exception as error:  # noqa: BLE001  # a step that passed does not fail by its notices
        log.warning("notices could not be sent now: %s", mask(str(error)))
        return []


def names(plan: Plan) -> list[str]:
    """Return the names of the plan's channels."""
    mail = plan.connections.mail is not None
    found = ["slack"] if plan.connections.slack is not None else []
    found += ["mail"] if mail else []
    return found + ([notices.LEAD] if mail and plan.people.lead.email not in plan.channels.mail_to else [])


def delivery_status(evidence: Evidence, notice: str, plan: Plan) -> tuple[list[str], list[str], str]:
    """Return the channels that got a notice, those that did not, and both in words."""
    found = notices.outbox(evidence.events())[notice]
    sent = sorted(found.sent)
    missing = found.missing(names(plan)) if wanted(evidence) else []
    words = f"sent to {', '.join(sent)}" if sent else "not sent"
    if missing and found.withheld_by:
        words += f", withheld by {found.withheld_by}"
    elif missing and datetime.now(UTC) < found.ready:
        words += f", held until {found.ready:%H:%M} UTC for the communicator"
    elif missing:
        words += f", missing: {', '.join(missing)}"
    return sent, missing, words
