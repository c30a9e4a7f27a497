"""Opening a run: who may, what belongs to it, the announcement, and everything that is looked at before anything stops."""

from __future__ import annotations

from datetime import datetime, timedelta

from include.cutover.errors import Refused
from include.cutover.evidence import fingerprints, lease, source_lease
from include.cutover.evidence.record import Event, runs
from include.cutover.plan.file import load_plan
from include.cutover.runs import clock as clocks
from include.cutover.runs import deciders, incident, rehearsals, schedule
from include.cutover.runs.clock import Clock
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import FROZEN_PLAN, Report, Step
from include.cutover.steps.wait_for_window import window_start


def open_run(step: Step) -> Report:
    """Start the evidence, freeze the plan, take the lease. A second try of the same run finds it open and goes on.

    Raises:
        Refused: When somebody else started it than the lead or a deputy, when automatic approval is not allowed, when
            another run is open or works on the same source, when this one was triggered while another was open, when the
            application already lives on the target, or when the incident of an earlier run is open.
    """
    opened = step.evidence.last("run.opened") if step.evidence.exists else None
    if opened is not None:
        lease.check(step.plan.name, step.run_id, step.holder)
        _begin_clock(step, opened)
        _hold_source(step)
        return Report("the run is open")
    plan = load_plan(step.plan.name)
    scheduled = str(step.params.get("scheduled") or "")
    actor = schedule.scheduled_by(plan.name, scheduled, step.run_id, step.actor) if scheduled else step.actor
    deciders.require_decider(plan, actor, "start a cutover")
    approve = step.params["approve"]
    if approve == "auto" and not plan.gates.allow_auto_approval:
        raise Refused(
            "the plan does not allow automatic approval",
            where=f"plan {plan.name}: gates.allow_auto_approval",
            expected="true, for a demo or a test",
            found="false",
            do="Trigger the DAG with approve: ask.",
        )
    _refuse_after(plan.name)
    _refuse_queued(plan.name, step.caller.triggered_at)
    incident.require_none_open(plan.name)
    start = window_start(step.params.get("window_start"))
    _refuse_over(plan.name, Clock.of(plan.window, start, rehearsals.measured(plan)))
    lease.acquire(plan.name, step.run_id, step.holder)
    # Before the run counts as open: from then on its plan is the frozen one, whatever becomes of the file.
    step.evidence.save(FROZEN_PLAN, plan.model_dump_json(indent=1))
    step.evidence.append(
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
    _begin_clock(step, opened=step.evidence.last("run.opened") or {})
    _hold_source(step)
    return Report(f"opened by {actor}: {step.params['reason']}")


def _begin_clock(step: Step, opened: Event) -> None:
    """Record the run's clock, and what it will send; what an earlier try recorded stays."""
    if clocks.read(step.evidence.events()) is None:
        start = datetime.fromisoformat(opened["window_start"])
        clock = Clock.of(step.plan.window, start, rehearsals.measured(step.plan))
        step.evidence.append(clocks.EVENT, **clock.as_fields())
    if opened.get("scheduled"):
        schedule.hand_over(step.plan.name, opened["scheduled"], step.evidence)
    notice_steps.post_ahead(step.evidence, step.plan, run_id=step.run_id, announced=bool(opened.get("scheduled")))


def _refuse_over(plan: str, clock: Clock) -> None:
    """No window that is as good as over: such a run could only go back."""
    if late := clock.late("open_run"):
        raise Refused(
            "the window is over before the run begins",
            where=f"plan {plan}: window_start",
            expected=f"a run that can be live before {clock.deadline:%Y-%m-%d %H:%M:%S} UTC",
            found=late,
            do="Name a later start, or none for now; or plan a longer window.",
        )


def _hold_source(step: Step) -> None:
    source_lease.acquire(step.source, plan=step.plan.name, run_id=step.run_id, evidence=step.evidence)


def _refuse_after(plan: str) -> None:
    """No cutover of an application that is live already."""
    for run in reversed(runs(plan)):
        sealed = run.sealed
        if sealed is not None and sealed.get("outcome") == "live":
            raise Refused(
                "the application already lives on the target",
                where=f"plan {plan}",
                found=f"the run {run.folder.name} ended live at {sealed['time']}",
                do="Roll that run back first if it has to be done again.",
            )


def _refuse_queued(plan: str, triggered_at: datetime | None) -> None:
    """A run that waited for the end of another one starts when that ends, and nobody has seen then how it ended."""
    for run in runs(plan):
        sealed = run.sealed
        if triggered_at is not None and sealed is not None and datetime.fromisoformat(sealed["time"]) > triggered_at:
            raise Refused(
                "this run was triggered before another one had ended, and waited for it",
                where=f"plan {plan}",
                expected="a run that is triggered when the one before is over",
                found=f"triggered at {triggered_at:%H:%M:%S} UTC; {run.folder.name} ended as {sealed['outcome']} later",
                do="Look at what that run left behind, then trigger a new one.",
            )
