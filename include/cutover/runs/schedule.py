"""Cutovers that are announced now and begin later: who asked for one, when, and which run is it.

The record of a schedule is evidence of its own, below ``schedules/<plan>``. It names the run that will be triggered, by
an id that nobody can guess; that run proves by its own id that it is the one, and so gets the name of the person who
scheduled it. What it freezes, it freezes when it opens, and not before."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from include.cutover.errors import Refused
from include.cutover.evidence.record import Event, Evidence, evidence_root, runs_below
from include.cutover.files import slug
from include.cutover.plan.model import Plan
from include.cutover.runs import clock as clocks
from include.cutover.runs import rehearsals
from include.cutover.runs.clock import Clock
from include.cutover.runs.deciders import require_auto_approval, require_decider

OPENED, BEGUN, CALLED_OFF = "schedule.opened", "schedule.begun", "schedule.called_off"


def folder(plan: str) -> Path:
    """Where the schedules of a plan are recorded."""
    return evidence_root() / "schedules" / plan


def of(plan: str, schedule: str) -> Evidence:
    """The record of a schedule, by the id of the run of ``schedule_<plan>``."""
    return Evidence(folder(plan) / slug(schedule))


def open_schedule(
    plan: Plan, schedule: str, *, actor: str | None, reason: str, approve: str, notify: bool, start: datetime
) -> Evidence:
    """Record who wants a cutover and when. A second call finds it recorded.

    Raises:
        Refused: When somebody else asks than the lead or a deputy, when automatic approval is not allowed, when the start is
            not ahead, or when another cutover of the plan is scheduled.
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
            "a cutover is scheduled for a time to come",
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
    evidence.append(clocks.EVENT, **Clock.of(plan.window, start, rehearsals.measured(plan)).as_fields())
    return evidence


def waiting(plan: str) -> Event | None:
    """What is scheduled and has not begun; None where nothing is."""
    for evidence in reversed(runs_below(folder(plan))):
        opened = evidence.last(OPENED)
        if opened is not None and evidence.sealed is None and not is_called_off(evidence) and not has_opened(plan, opened):
            return opened
    return None


def is_called_off(evidence: Evidence) -> bool:
    """Whether somebody called a schedule off, or it came to nothing."""
    return evidence.last(CALLED_OFF) is not None


def has_opened(plan: str, opened: Event) -> bool:
    """Whether the scheduled run has opened."""
    run = Evidence.of(plan, opened["cutover"])
    return run.exists and run.last("run.opened") is not None


def call_off(plan: Plan, *, actor: str | None, reason: str) -> str:
    """Call off what is scheduled. Returns the schedule's id.

    Raises:
        Refused: When nothing is scheduled, when it has begun, or when somebody else asks than the lead or a deputy.
    """
    require_decider(plan, actor, "call a cutover off")
    opened = waiting(plan.name)
    if opened is None:
        raise Refused("nothing is scheduled that has not begun", where=f"plan {plan.name}", do="Answer its gate with No-go.")
    evidence = of(plan.name, opened["run_id"])
    called_off = evidence.append(CALLED_OFF, by=actor, reason=reason)
    begun = evidence.last(BEGUN)
    if begun is not None and begun["seq"] < called_off["seq"]:
        raise Refused("the scheduled cutover has begun just now", where=opened["cutover"], do="Answer its gate with No-go.")
    return str(opened["run_id"])


def scheduled_by(plan: str, schedule: str, run_id: str, actor: str | None) -> str:
    """Who scheduled the run that says so of itself; it begins now.

    Args:
        run_id: The run that says so.
        actor: Who triggered it, as Airflow knows; it hands the name of the schedule's trigger on.

    Raises:
        Refused: When there is no such schedule, when it announced another run, when it was called off, or when somebody else
            triggered it: what a trigger form says proves nothing.
    """
    evidence = of(plan, schedule)
    opened = evidence.last(OPENED) if evidence.exists else None
    if opened is None or opened["cutover"] != run_id or actor not in (None, opened["actor"]):
        raise Refused(
            "this run was not scheduled by what it names",
            where=f"plan {plan}: scheduled",
            expected="the run that schedule_<plan> announced",
            found=f"{schedule[:60]}, triggered by {actor or 'nobody known'}",
            do="Leave the field empty to begin a cutover of your own.",
        )
    begun = evidence.last(BEGUN) or evidence.append(BEGUN, run_id=run_id)
    called_off = evidence.last(CALLED_OFF)
    if called_off is not None and called_off["seq"] < begun["seq"]:
        raise Refused(
            "the scheduled cutover was called off",
            where=run_id,
            found=f"{called_off['reason']} ({called_off['by'] or 'by itself'})",
            do="Schedule it again.",
        )
    return str(opened["actor"])


def hand_over(plan: str, schedule: str, evidence: Evidence) -> None:
    """Pass the start notice on to the run that has opened, with who has got it, so that it is not sent again. Runs twice."""
    announced = of(plan, schedule)
    if announced.last("notice.passed_on") is None:  # from here on the schedule sends nothing of it
        announced.append("notice.passed_on", notice="start", to=evidence.folder.name)
    told = [event for event in announced.events() if event["event"] in ("notice", "notice.delivery")]
    there = sum(event.get("passed_on_from") == schedule for event in evidence.events())
    for event in [event for event in told if event["notice"] == "start"][there:]:
        fields = {name: value for name, value in event.items() if name not in ("event", "seq", "time", "previous")}
        evidence.append(event["event"], **fields, passed_on_from=schedule)
