"""Schedules: cutovers that are announced now and begin later.

The record of a schedule is evidence of its own, below ``schedules/<plan>``. It names the run that will be triggered by an id
that cannot be guessed; that run proves by its id that it is the scheduled one, and so gets the name of the person who
scheduled it. Plan, SQL and code are frozen when that run opens, not before.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from include.cutover.errors import Refused
from include.cutover.evidence.record import ENVELOPE, Event, Evidence, evidence_root, runs_below
from include.cutover.files import slug
from include.cutover.plan.model import Plan
from include.cutover.runs import clock, rehearsals
from include.cutover.runs.clock import Clock
from include.cutover.runs.deciders import require_auto_approval, require_decider

OPENED, BEGUN, CALLED_OFF = "schedule.opened", "schedule.begun", "schedule.called_off"


def folder(plan: str) -> Path:
    """Return the folder with the schedules of a plan."""
    return evidence_root() / "schedules" / plan


def of(plan: str, schedule: str) -> Evidence:
    """Return the record of a schedule, by the id of the run of ``schedule_<plan>``."""
    return Evidence(folder(plan) / slug(schedule))


def open_schedule(
    plan: Plan, schedule: str, *, actor: str | None, reason: str, approve: str, notify: bool, start: datetime
) -> Evidence:
    """Record a scheduled cutover. A second call finds it recorded.

    Args:
        plan: The plan.
        schedule: Id of the run of ``schedule_<plan>``.
        actor: User name of the person who asks.
        reason: The reason of the cutover.
        approve: ``ask`` or ``auto``.
        notify: Send notices to people.
        start: Begin of the window.

    Raises:
        Refused: When a person other than the lead or a deputy asks, when automatic approval is not allowed, when the start
            is past, or when another cutover of the plan is scheduled.
    """
    evidence = of(plan.name, schedule)
    if evidence.exists:
        return evidence
    require_decider(plan, actor, "schedule a cutover")
    if approve == "auto":
        require_auto_approval(plan)
    now = datetime.now(UTC)
    if start <= now:
        raise Refused(
            "a cutover must be scheduled for a future time",
            where="window_start",
            expected=f"later than {now:%Y-%m-%d %H:%M:%S} UTC",
            found=f"{start:%Y-%m-%d %H:%M:%S} UTC",
            do=f"Name a later start, or trigger cutover_{plan.name} to begin now.",
        )
    if other := waiting(plan.name):
        raise Refused(
            "another cutover of this plan is scheduled",
            where=f"plan {plan.name}",
            found=f"{other['run_id']} for {other['window_start']}, by {other['actor']}",
            do=f"Call that one off first: trigger schedule_{plan.name} with action: call off.",
        )
    evidence.append(
        OPENED,
        run_id=schedule,
        plan=plan.name,
        actor=actor,
        reason=reason,
        approve=approve,
        notices=notify,
        window_start=start.isoformat(),
        cutover=f"scheduled__{start:%Y-%m-%dT%H:%M}__{secrets.token_hex(16)}",
    )
    evidence.append(clock.EVENT, **Clock.of(plan.window, start, rehearsals.measured(plan)).as_fields())
    return evidence


def waiting(plan: str) -> Event | None:
    """Return the scheduled cutover that has not begun, None where there is none."""
    for evidence in reversed(runs_below(folder(plan))):
        opened = evidence.last(OPENED)
        if opened is not None and evidence.sealed is None and not is_called_off(evidence) and not has_opened(plan, opened):
            return opened
    return None


def is_called_off(evidence: Evidence) -> bool:
    """Report whether a schedule was called off, by a person or by itself."""
    return evidence.last(CALLED_OFF) is not None


def has_opened(plan: str, opened: Event) -> bool:
    """Report whether the scheduled run has opened."""
    run = Evidence.of(plan, opened["cutover"])
    return run.exists and run.last("run.opened") is not None


def call_off(plan: Plan, *, actor: str | None, reason: str) -> str:
    """Call off the scheduled cutover. Return the schedule's id.

    Raises:
        Refused: When nothing is scheduled, when it has begun, or when a person other than the lead or a deputy asks.
    """
    require_decider(plan, actor, "call a cutover off")
    opened = waiting(plan.name)
    if opened is None:
        raise Refused(
            "no cutover is scheduled that has not begun",
            where=f"plan {plan.name}",
            do="To stop one that has begun, answer its gate with No-go.",
        )
    evidence = of(plan.name, opened["run_id"])
    called_off = evidence.append(CALLED_OFF, by=actor, reason=reason)
    begun = evidence.last(BEGUN)
    if begun is not None and begun["seq"] < called_off["seq"]:
        raise Refused("the scheduled cutover has just begun", where=opened["cutover"], do="Answer its gate with No-go.")
    return str(opened["run_id"])


def scheduled_by(plan: str, schedule: str, run_id: str, actor: str | None) -> str:
    """Return the person who scheduled a run, and record that it begins now.

    Args:
        plan: Name of the plan.
        schedule: The schedule that the run names.
        run_id: The run.
        actor: The user who triggered it, from Airflow; for a scheduled run, the one who triggered the schedule.

    Raises:
        Refused: When there is no such schedule, when it announced another run, when it was called off, or when another
            person triggered the run: the trigger form proves nothing.
    """
    evidence = of(plan, schedule)
    opened = evidence.last(OPENED) if evidence.exists else None
    if opened is None or opened["cutover"] != run_id or actor not in (None, opened["actor"]):
        raise Refused(
            "this run was not scheduled by the schedule that it names",
            where=f"plan {plan}: scheduled",
            expected="the run that schedule_<plan> announced",
            found=f"{schedule[:60]}, triggered by {actor or 'an unknown user'}",
            do="Leave the field empty to begin an unscheduled cutover.",
        )
    begun = evidence.last(BEGUN) or evidence.append(BEGUN, run_id=run_id)
    called_off = evidence.last(CALLED_OFF)
    if called_off is not None and called_off["seq"] < begun["seq"]:
        raise Refused(
            "the scheduled cutover was called off",
            where=run_id,
            found=f"{called_off['reason']} ({called_off['by'] or 'automatically'})",
            do="Schedule it again.",
        )
    return str(opened["actor"])


def hand_over(plan: str, schedule: str, evidence: Evidence) -> None:
    """Pass the start notice and its deliveries on to the run that has opened, so it is not sent again. Safe to run again."""
    announced = of(plan, schedule)
    if announced.last("notice.passed_on") is None:  # from here on the schedule no longer sends it
        announced.append("notice.passed_on", notice="start", to=evidence.folder.name)
    posted = [event for event in announced.events() if event["event"] in ("notice", "notice.delivery")]
    there = sum(event.get("passed_on_from") == schedule for event in evidence.events())
    for event in [event for event in posted if event["notice"] == "start"][there:]:
        fields = {name: value for name, value in event.items() if name not in ENVELOPE}
        evidence.append(event["event"], **fields, passed_on_from=schedule)
