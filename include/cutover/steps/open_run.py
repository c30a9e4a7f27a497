"""Opens a run: checks that it may begin, takes the lease, freezes the plan and starts the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from include.cutover.errors import Refused
from include.cutover.evidence import fingerprints, lease, source_lease, steady
from include.cutover.evidence.record import Event, runs
from include.cutover.plan.file import load_plan
from include.cutover.runs import clock as clocks
from include.cutover.runs import deciders, incident, rehearsals, runbook, schedule, window_start
from include.cutover.runs.clock import Clock
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import FROZEN_PLAN, Report, Step


def open_run(step: Step) -> Report:
    """Take the lease, freeze the plan, start the evidence. A second try of the same run finds it open and continues.

    Raises:
        Refused: When anyone but the lead or a deputy started it, when automatic approval is not allowed, when the start of
            the window is unusable, when another run is open or works on the same source, when this one was triggered while
            another was open, when the application is live on the target already, or when the incident of an earlier run is
            open.
    """
    events = step.evidence.events() if step.evidence.exists else []
    opened = next((event for event in reversed(events) if event["event"] == "run.opened"), None)
    if opened is not None:
        lease.check(step.plan.name, step.run_id, step.holder)
        _begin_clock(step, opened, events)
        _hold_source(step)
        return Report("the run is open")
    plan = load_plan(step.plan.name)
    scheduled = str(step.params.get("scheduled") or "")
    actor = schedule.scheduled_by(plan.name, scheduled, step.run_id, step.actor) if scheduled else step.actor
    deciders.require_decider(plan, actor, "start a cutover")
    approve = step.params["approve"]
    if approve == "auto":
        deciders.require_auto_approval(plan)
    _refuse_earlier_runs(plan.name, step.caller.triggered_at)
    incident.require_none_open(plan.name)
    given = window_start.read(step.params.get("window_start"), plan)
    start = given.moment
    _refuse_short_window(plan.name, Clock.of(plan.window, start, rehearsals.measured(plan)))
    lease.acquire(plan.name, step.run_id, step.holder)
    # Before the run counts as open: from then on it uses the frozen plan, not the file.
    step.evidence.save(FROZEN_PLAN, plan.model_dump_json(indent=1))
    opened = step.evidence.append(
        "run.opened",
        run_id=step.run_id,
        plan=plan.name,
        application=plan.application,
        source=str(step.source),
        dag_id=step.caller.dag_id,
        actor=actor,
        reason=step.params["reason"],
        scheduled=scheduled or None,
        approve=approve,
        window_start=start.isoformat(),
        window_end=(start + timedelta(minutes=plan.window.minutes)).isoformat(),
        notices=bool(step.params["notify"]),
        fingerprints=fingerprints.of_run(plan),
    )
    _begin_clock(step, opened)
    _hold_source(step)
    return Report("; ".join(filter(None, (f"opened by {actor}: {step.params['reason']}", given.note))))


def _begin_clock(step: Step, opened: Event, events: Sequence[Event] = ()) -> None:
    """Record the run's clock and its notices, unless an earlier try, whose ``events`` these are, recorded them."""
    if clocks.read(list(events)) is None:
        start = datetime.fromisoformat(opened["window_start"])
        clock = Clock.of(step.plan.window, start, rehearsals.measured(step.plan))
        step.evidence.append(clocks.EVENT, **clock.as_fields())
    if opened.get("scheduled"):
        schedule.hand_over(step.plan.name, opened["scheduled"], step.evidence)
    notice_steps.post_ahead(step.evidence, step.plan, run_id=step.run_id, announced=bool(opened.get("scheduled")))


def _refuse_short_window(plan: str, clock: Clock) -> None:
    """Refuse a window too short to go live in: such a run could only go back."""
    if late := clock.late(runbook.OPEN_RUN):
        raise Refused(
            "the window ends before the run can be live",
            where=f"plan {plan}: window_start",
            expected=f"a run that can be live before {clock.deadline:%Y-%m-%d %H:%M:%S} UTC",
            found=late,
            do="Enter a later start, or none for now; or plan a longer window.",
        )


def _hold_source(step: Step) -> None:
    source_lease.acquire(step.source, plan=step.plan.name, run_id=step.run_id, evidence=step.evidence)


def _refuse_earlier_runs(plan: str, triggered_at: datetime | None) -> None:
    """Refuse a cutover of an application that is live, and a run that waited for another one to end.

    The latter would start at that end, before anyone has seen how the other run ended.
    """
    ended = [(run, sealed) for run in runs(plan) if (sealed := run.sealed) is not None]
    for run, sealed in reversed(ended):
        if sealed.get("outcome") == "live":
            raise Refused(
                "the application is live on the target already",
                where=f"plan {plan}",
                found=f"the run {run.folder.name} ended live at {sealed['time']}",
                do="Roll that run back first if it has to be done again.",
            )
    for run, sealed in ended:
        back = timedelta(seconds=-sum(min(0.0, jump.seconds) for jump in steady.jumps(run.events())))
        latest = datetime.fromisoformat(sealed["time"]) + back  # by the clock from before it was set back
        if triggered_at is not None and latest > triggered_at:
            gone_back = bool(back) or datetime.fromisoformat(sealed["time"]) > datetime.now(UTC)
            raise Refused(
                "this run was triggered before another one had ended, and waited for it",
                where=f"plan {plan}",
                expected="a run that is triggered after the one before has ended",
                found=f"triggered at {triggered_at:%H:%M:%S} UTC; {run.folder.name} ended as {sealed['outcome']} "
                + (f"at {latest:%H:%M:%S} UTC, before the clock went back" if gone_back else "later"),
                do="Check the outcome of that run, then trigger a new one"
                + (f" after {latest:%Y-%m-%d %H:%M:%S} UTC." if gone_back else "."),
            )
