"""The evidence of an aftercare: when the next round is due, the question to the lead and its answer, and the outcome.

The run's evidence is sealed when it goes live, so the aftercare keeps its own, in a folder that names the run. The due times
are read from there, never from Airflow: after a restart of the scheduler or the kill of a worker, the aftercare goes on
behind the last recorded round. Pure functions over evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Refused
from include.cutover.evidence import steady
from include.cutover.evidence.record import EVENTS, Event, Evidence, evidence_root
from include.cutover.files import slug
from include.cutover.plan.afterwards import Aftercare
from include.cutover.runs.verdict import course

log = logging.getLogger(__name__)

OPENED, LOOK, WATCHED, CLOSED = "aftercare.opened", "aftercare.look", "aftercare.watched", "aftercare.closed"
ASKED, ANSWERED, BACKUP, REQUESTED = "gate.asked", "gate", "aftercare.backup", "rollback.requested"
"""Events of the aftercare's evidence."""

BASELINE = "go_live.baseline"
"""Event of the cutover's evidence: positions of logs and statistics right before the services start on the target."""

_OURS = "aftercare__"

ROLL_BACK, STAY = "Roll back", "Stay live"
QUESTION = "roll_back"


def folder(plan: str) -> Path:
    """Return the folder of the aftercare evidence of all runs of a plan."""
    return evidence_root() / "aftercare" / plan


def evidence_of(plan: str, run_id: str) -> Evidence:
    """Return the evidence of the aftercare of a run, which may not exist yet."""
    return Evidence(folder(plan) / slug(run_id))


def all_of(plan: str) -> list[Evidence]:
    """Return the evidence of every aftercare of a plan."""
    place = folder(plan)
    return [Evidence(item) for item in sorted(place.iterdir()) if (item / EVENTS).is_file()] if place.is_dir() else []


def subject_of(plan: str, own_run_id: str) -> str | None:
    """Return the id of the cutover that a run of the aftercare's DAG watches; None where it recorded none."""
    for evidence in all_of(plan):
        opened = _first(evidence, OPENED, own_run_id=own_run_id)
        if opened is not None:
            return str(opened["run_id"])
    return None


def _first(evidence: Evidence, event: str, **match: Any) -> Event | None:
    """Return that event; None where the evidence is damaged, so that the search goes on with other runs."""
    try:
        return evidence.last(event, **match)
    except CannotCheck as error:
        log.warning("%s", error)
        return None


def is_live(cutover: Evidence) -> bool:
    """Return True when the run's application is live on the target, and no rollback has begun."""
    return cutover.exists and course(cutover.events()) == "live"


# --- looks --------------------------------------------------------------------------------------------------------------


def started_at(cutover: Evidence) -> datetime:
    """Return when the services had started on the target."""
    event = cutover.last("services.started", on="target") or cutover.last("live") or cutover.events()[-1]
    return datetime.fromisoformat(event["time"])


def end_of(opened: Event) -> datetime:
    """Return when the last round is due."""
    return datetime.fromisoformat(opened["until"])


def looks(events: Sequence[Event]) -> list[Event]:
    """Return all rounds, oldest first."""
    return [event for event in events if event["event"] == LOOK]


def next_look(events: Sequence[Event], settings: Aftercare) -> datetime | None:
    """Return when the next round is due, to be compared with ``now_in``; None after the last one.

    Overdue rounds are run as one. A clock that is set meanwhile changes neither the number of rounds nor the end.
    """
    even: dict[int, datetime] = dict(zip((event["seq"] for event in events), steady.moments(events), strict=True))
    opened = next(event for event in events if event["event"] == OPENED)
    made, end = looks(events), end_of(opened)
    if not made:
        return even[opened["seq"]]
    last = even[made[-1]["seq"]]
    return None if last >= end else min(end, last + timedelta(seconds=settings.interval_seconds))


def judge(checks: Sequence[Check], accepted: Collection[str]) -> str:
    """Return ``red`` when a check failed, ``unclear`` when one is unknown and not accepted so, else ``green``."""
    if any(check.outcome == "failed" for check in checks):
        return "red"
    return "unclear" if any(check.outcome == "unknown" and check.name not in accepted for check in checks) else "green"


def sentence(checks: Sequence[Check]) -> str:
    """Return what is wrong, in one sentence."""
    bad = [check for outcome in ("failed", "unknown") for check in checks if check.outcome == outcome]
    shown = [
        f"{check.title}: {'could not be checked' if check.outcome == 'unknown' else f'found {check.found}'}"
        for check in bad[:3]
    ]
    return "; ".join(shown) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")


# --- the question -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenQuestion:
    """A red finding without an answer yet.

    Attributes:
        seq: Number of the event that reported it.
        checks: Its checks.
    """

    seq: int
    checks: tuple[Check, ...]


def open_question(events: Sequence[Event]) -> OpenQuestion | None:
    """Return the newest red finding since the last recorded answer; None where there is none.

    A question whose answer was lost is still open.
    """
    answered = max((event["seq"] for event in events if event["event"] == ANSWERED), default=-1)
    for event in reversed(events):
        if event["seq"] > answered and event["event"] in (LOOK, BACKUP) and event.get("outcome") == "red":
            return OpenQuestion(event["seq"], tuple(Check(**check) for check in event["checks"]))
    return None


def answer(events: Sequence[Event], entitled: Collection[str]) -> Event | None:
    """Return the answer for a rollback by an entitled person; None where there is none."""
    for event in reversed(events):
        if event["event"] == ANSWERED and event.get("answer") == ROLL_BACK and event.get("by") in entitled:
            return event
    return None


def rollback_run_id(run_id: str, answered: Event) -> str:
    """Return the run id of the rollback: one for each answer."""
    return f"{_OURS}{slug(run_id)[:200]}__{answered['seq']}"


def request(plan: str, own_run_id: str) -> Event | None:
    """Return the aftercare's request for a rollback, by the run id that it gave; None for a run started by hand.

    The requester, the run and the reason are recorded here and not in the run's form, which every user who may trigger the
    DAG can fill in.

    Raises:
        Refused: When the id has the form that only the aftercare gives, and there is no such request.
    """
    if not own_run_id.startswith(_OURS):
        return None
    for evidence in all_of(plan):
        found = _first(evidence, REQUESTED, rollback_run_id=own_run_id)
        if found is not None:
            return found
    raise Refused(
        "no aftercare requested this rollback",
        where=own_run_id,
        do=f"Trigger rollback_{plan} by hand, without a run id of your own.",
    )


# --- the end ------------------------------------------------------------------------------------------------------------

ENDS = {
    "quiet": "every round was green",
    "unclear": "no check failed, but some could not be made",
    "red": "a check failed, and the application stayed live",
    "rolled_back": "the application was rolled back",
    "unfinished": "the rounds were not completed",
}


def outcome(events: Sequence[Event], *, live: bool) -> str:
    """Return how the aftercare ended, one of ``ENDS``; without the recorded rounds, it is never ``quiet``."""
    if not live:
        return "rolled_back"
    found = {event.get("outcome") for event in events if event["event"] in (LOOK, BACKUP)}
    if "red" in found:
        return "red"
    watched = [event for event in events if event["event"] == WATCHED]
    if not looks(events) or not watched:
        return "unfinished"
    return "quiet" if found == {"green"} else "unclear"


def is_over(evidence: Evidence) -> bool:
    """Return True when the aftercare is closed."""
    return evidence.exists and evidence.last(CLOSED) is not None


def now() -> datetime:
    """Return this instant, UTC."""
    return datetime.now(UTC)


def now_in(events: Sequence[Event]) -> datetime:
    """Return this instant, counted from the opening of the aftercare by elapsed time where this boot recorded it."""
    return steady.counted(events) or now()


def wall_clock(due: datetime, events: Sequence[Event]) -> datetime:
    """Return the time that the clock will show at an instant of ``now_in``."""
    return now() + (due - now_in(events))
