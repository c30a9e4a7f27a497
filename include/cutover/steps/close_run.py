"""Closing a run: the report, the seal, and the colour."""

from __future__ import annotations

from include.cutover.errors import CutoverError, LeaseLost, StepFailed
from include.cutover.evidence import lease, source_lease
from include.cutover.evidence.record import Event
from include.cutover.people import notices
from include.cutover.report import page as report_page
from include.cutover.runs.verdict import course, has_begun, has_touched, passed_in_turn
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Report, Step
from include.cutover.target import ledger

ROLLED_BACK = tuple(
    f"rollback.{name}"
    for name in ("stop_services", "keep_target", "restore_source", "revert_configuration", "start_services", "check_health")
)
RELEASED = ("release.lift_fence", "release.start_services", "release.check_health")

SENTENCES = {
    "live": "live on PostgreSQL",
    "rolled_back": "rolled back: the application runs on SQLite again, as of the backup",
    "released": "called off after the services had stopped: they run on SQLite again, nothing was overwritten",
    "abandoned": "called off before anything was stopped: nothing was touched",
    "failed": "NOT finished: the way back did not complete, somebody must look now",
}


def outcome_of(events: list[Event]) -> str:
    """How a run ended, from its evidence: ``live``, ``rolled_back``, ``released``, ``abandoned`` or ``failed``."""
    if has_begun(events, "rollback.stop_services"):
        return "rolled_back" if passed_in_turn(events, ROLLED_BACK) else "failed"
    if has_begun(events, "release.lift_fence"):
        return "released" if passed_in_turn(events, RELEASED) else "failed"
    if course(events) == "live":
        return "live"
    return "failed" if has_touched(events) else "abandoned"


def close(step: Step) -> Report:
    """Write the report and seal the evidence; fails on purpose unless the application is live. Runs again without harm.

    Raises:
        StepFailed: When the run ended in any other way than live; Airflow shows the run red.
    """
    if not step.evidence.exists or step.evidence.last("run.opened") is None:
        raise StepFailed("the run never opened", where=step.run_id, do="See the task open_run for the reason.")
    sealed = step.evidence.sealed
    if sealed is None:
        try:
            lease.check(step.plan.name, step.run_id, step.holder)
        except LeaseLost as lost:
            raise StepFailed(
                "another run took over; this one does nothing more", where=step.run_id, found=lost.found
            ) from None
        events = step.evidence.events()
        outcome = outcome_of(events)
        if outcome in ("live", "abandoned", "released"):
            _release_target(step, live=outcome == "live")
        if outcome != "failed":
            _release_source(step)
        step.evidence.append("sealed", outcome=outcome, summary=SENTENCES[outcome], by=step.holder)
    else:
        outcome = sealed["outcome"]
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels, seconds=notices.SECONDS, patient=False)
    step.evidence.save("report.html", report_page.run_report(step.evidence, step.plan))
    summary = report_page.summary(step.evidence, step.plan)
    if outcome != "live":
        raise StepFailed(SENTENCES[outcome], where=step.run_id, found=str(summary.get("first_failure") or ""))
    return Report(SENTENCES[outcome], summary)


def close_rollback(step: Step) -> Report:
    """Close the cutover as rolled back; green when the application is back on SQLite, or never left it. Runs twice.

    Raises:
        StepFailed: When nothing was rolled back, or the way back did not complete.
    """
    if step.run_id == step.own_run_id:
        raise StepFailed("nothing was rolled back", where=step.own_run_id, do="See the task open_rollback for the reason.")
    try:
        return close(step)
    except StepFailed:
        sealed = step.evidence.sealed
        if sealed is None or sealed["outcome"] not in ("rolled_back", "abandoned"):
            raise
        return Report(SENTENCES[sealed["outcome"]], report_page.summary(step.evidence, step.plan))


def _release_source(step: Step) -> None:
    """Let the source go. One that cannot be reached is let go by the seal: a closed run holds nothing."""
    try:
        source_lease.release(step.source, step.run_id)
    except (CutoverError, OSError) as error:
        step.log.warning("the lease of the source was not given back: %s", error)


def _release_target(step: Step, *, live: bool) -> None:
    """Give the lease of the target back; where it is down, the next run or the rollback takes it."""
    if not has_begun(step.evidence.events(), "apply_ddl"):
        return
    try:
        held = ledger.lease(step.target)
        if held is not None and held.run_id == step.run_id:
            ledger.release(step.target, step.run_id, held.epoch)
    except CutoverError as error:
        step.log.warning("the lease of the target was not given back: %s", error)
        if not live:
            step.evidence.append("target.pending", run_id=step.run_id)
