"""The steps of ``schedule_<plan>``: announce a cutover, wait, trigger it, and verify that it opened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.cutover.errors import Refused, StepFailed
from include.cutover.evidence.record import Event, Evidence
from include.cutover.people.notices import SECONDS
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook, schedule, window_start
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.call import Call, NotNeeded, NotYet
from include.cutover.steps.step import Ends

OPEN_SECONDS = 600.0  # how long the triggered cutover may take until it has opened


def open_schedule(call: Call) -> str:
    """Record the schedule and announce it immediately; or call the scheduled cutover off. Safe to run again."""
    plan, params = load_plan(call.plan), call.caller.params
    if params["action"] == "call off":
        called_off = schedule.call_off(plan, actor=call.caller.actor, reason=params["reason"])
        _close(plan, schedule.of(plan.name, called_off), call.ends)
        return f"called off: {called_off}"
    if not params.get("window_start"):
        raise Refused("a schedule needs the start of the window", where="window_start", do="Fill it in.")
    given = window_start.read(params["window_start"], plan)
    start = given.moment
    evidence = schedule.open_schedule(
        plan,
        call.caller.run_id,
        actor=call.caller.actor,
        reason=params["reason"],
        approve=params["approve"],
        notify=bool(params["notify"]),
        start=start,
    )
    notice_steps.post(evidence, plan, "start", run_id=evidence.folder.name)
    _deliver(call, plan)
    words = [f"a cutover is scheduled for {start:%Y-%m-%d %H:%M} UTC", given.note]
    return "; ".join(filter(None, [*words, notice_steps.delivery_status(evidence, "start", plan)[2]]))


def wait_for_freeze(call: Call) -> str:
    """Wait for the change freeze: then the cutover begins, and checks everything while nothing changes.

    Raises:
        NotYet: Before the freeze.
        Refused: When the schedule was called off.
    """
    _require_scheduled(call)
    plan = load_plan(call.plan)
    freeze = notice_steps.clock_of(evidence_of(call), plan).freeze
    if datetime.now(UTC) < freeze:
        _deliver(call, plan)
        raise NotYet(freeze)
    return "the freeze has begun"


def begin(call: Call) -> tuple[str, dict[str, Any]]:
    """Return run id and form of the cutover to trigger now.

    Raises:
        Refused: When it is too early, or the schedule was called off; a task marked as success changes neither.
    """
    _require_scheduled(call)
    freeze = notice_steps.clock_of(evidence_of(call), load_plan(call.plan)).freeze
    if datetime.now(UTC) < freeze:
        raise Refused(
            "the freeze has not begun",
            where=call.caller.run_id,
            expected=f"{freeze:%Y-%m-%d %H:%M} UTC or later",
            do="Clear this task after that time.",
        )
    opened = opened_by(call)
    return opened["cutover"], {
        "approve": opened["approve"],
        "reason": opened["reason"],
        "notify": opened["notices"],
        "window_start": opened["window_start"],
        "scheduled": opened["run_id"],
    }


def see_it_open(call: Call) -> str:
    """Verify that the cutover has opened: an announced cutover must begin, or people must get a notice that it does not.

    Raises:
        NotYet: While it has neither opened nor refused.
        StepFailed: When it refused, or did not open in time.
    """
    _require_scheduled(call)
    opened = opened_by(call)
    run = Evidence.of(call.plan, opened["cutover"])
    if schedule.has_opened(call.plan, opened):
        return f"{opened['cutover']} has opened"
    ended = run.step(runbook.OPEN_RUN) if run.exists else None
    if ended is not None and ended["outcome"] == "refused":
        raise StepFailed(
            "the scheduled cutover refused to open",
            where=opened["cutover"],
            found=ended["summary"],
            do="Read the report of that run.",
        )
    freeze = notice_steps.clock_of(evidence_of(call), load_plan(call.plan)).freeze
    triggered = max(freeze, datetime.fromisoformat(opened["time"]))  # the freeze of a near window is over already
    if datetime.now(UTC) > triggered + timedelta(seconds=OPEN_SECONDS):
        raise StepFailed(
            "the scheduled cutover did not open in time", where=opened["cutover"], do="Check that run in Airflow."
        )
    raise NotYet(datetime.now(UTC) + timedelta(seconds=5))


def close_schedule(call: Call) -> str:
    """End the schedule; where its cutover has not opened, post the notice that it does not take place.

    Raises:
        StepFailed: When it has not opened.
    """
    if call.caller.params["action"] == "call off":
        return "there is nothing to do"
    opened = opened_by(call)
    if _close(load_plan(call.plan), evidence_of(call), call.ends) != "opened":
        word = evidence_of(call).last(schedule.CALLED_OFF) or {}
        raise StepFailed("the cutover does not take place", where=opened["run_id"], found=str(word.get("reason") or ""))
    return f"the cutover continues as {opened['cutover']}"


def _close(plan: Plan, evidence: Evidence, ends: Ends) -> str:
    """Seal a schedule. Return how it ended: ``opened`` or ``called_off``. Safe to run again."""
    opened = evidence.last(schedule.OPENED) or {}
    outcome = "opened" if schedule.has_opened(plan.name, opened) else "called_off"
    if outcome == "called_off":
        word = evidence.last(schedule.CALLED_OFF)
        if word is None:
            word = evidence.append(schedule.CALLED_OFF, by=None, reason=_why(plan.name, opened))
        if evidence.last("notice", notice="start") is not None:
            notice_steps.post(
                evidence, plan, "cancelled", run_id=str(opened["run_id"]), reason=f"{str(word['reason'])[:200].rstrip('.')}."
            )
    if evidence.sealed is None:
        evidence.append("sealed", outcome=outcome)
    notice_steps.deliver(evidence, plan, ends.channels, seconds=SECONDS, patient=False)
    return outcome


def _why(plan: str, opened: Event) -> str:
    run = Evidence.of(plan, opened["cutover"])
    ended = run.step(runbook.OPEN_RUN) if run.exists else None
    return str(ended["summary"]) if ended is not None else "the schedule was ended before the cutover began"


def _require_scheduled(call: Call) -> None:
    if call.caller.params["action"] == "call off":
        raise NotNeeded("this run called off what another one had scheduled")
    opened = opened_by(call)
    word = evidence_of(call).last(schedule.CALLED_OFF)
    if word is not None:
        raise Refused(
            "the scheduled cutover was called off",
            where=opened["run_id"],
            found=f"{word['reason']} ({word['by'] or 'automatically'})",
            do="Schedule it again.",
        )


def evidence_of(call: Call) -> Evidence:
    """Return the record of the schedule."""
    return schedule.of(call.plan, call.caller.run_id)


def opened_by(call: Call) -> Event:
    """Return the event that opened the schedule.

    Raises:
        StepFailed: When nothing was scheduled.
    """
    evidence = evidence_of(call)
    found = evidence.last(schedule.OPENED) if evidence.exists else None
    if found is None:
        raise StepFailed("nothing was scheduled", where=call.caller.run_id, do="See the task open_schedule for the reason.")
    return found


def _deliver(call: Call, plan: Plan) -> None:
    """Send the notices that wait."""
    notice_steps.deliver(evidence_of(call), plan, call.ends.channels, seconds=SECONDS)
