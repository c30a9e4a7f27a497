"""Closes a run: writes the report, seals the evidence, and fails unless the application is live."""

from __future__ import annotations

from include.cutover.errors import CutoverError, LeaseLost, StepFailed
from include.cutover.evidence import lease, source_lease
from include.cutover.evidence.record import Event, sealing
from include.cutover.people import notices
from include.cutover.report import page as report_page
from include.cutover.runs import incident, runbook
from include.cutover.runs.terms import LIVE, RELEASE, ROLLBACK
from include.cutover.runs.verdict import course, has_begun, has_touched, passed_in_turn
from include.cutover.steps import notices as notice_steps
from include.cutover.steps import scratch
from include.cutover.steps.step import Report, Step
from include.cutover.target import ledger

SENTENCES = {
    "live": "live on PostgreSQL",
    "rolled_back": "rolled back: the application runs on SQLite again, as of the backup",
    "released": "called off after the services had stopped: they run on SQLite again, nothing was overwritten",
    "abandoned": "called off before anything was stopped: nothing was touched",
    "failed": "NOT finished: the way back did not complete; an operator must act now",
}


NOT_REPLACED = "rolled back: the application runs on SQLite again, on its file with what was written there since the backup"


def outcome_of(events: list[Event]) -> str:
    """Return how a run ended: ``live``, ``rolled_back``, ``released``, ``abandoned`` or ``failed``."""
    for way, ended in ((ROLLBACK, "rolled_back"), (RELEASE, "released")):
        if has_begun(events, runbook.first_of(way)):
            return ended if passed_in_turn(events, runbook.completing(way)) else "failed"
    if course(events) == LIVE:
        return "live"
    return "failed" if has_touched(events) else "abandoned"


def close(step: Step) -> Report:
    """Write the report and seal the evidence; fails on purpose unless the application is live. Safe to run again.

    Raises:
        StepFailed: When the run did not end live; Airflow shows the run red.
    """
    events = step.evidence.events() if step.evidence.exists else []
    if not any(event["event"] == "run.opened" for event in events):
        raise StepFailed("the run never opened", where=step.run_id, do=f"See the task {runbook.OPEN_RUN} for the reason.")
    scratch.remove(step)
    sealed = sealing(events)
    outcome = sealed["outcome"] if sealed is not None else _seal(step, events)
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels, seconds=notices.SECONDS, patient=False)
    step.evidence.save("report.html", report_page.run_report(step.evidence, step.plan))
    summary = report_page.summary(step.evidence, step.plan)
    if outcome != "live":
        raise StepFailed(_sentence(events, outcome), where=step.run_id, found=str(summary.get("first_failure") or ""))
    return Report(SENTENCES[outcome], summary)


def _seal(step: Step, events: list[Event]) -> str:
    """Release the leases and seal the evidence; return the outcome."""
    try:
        lease.check(step.plan.name, step.run_id, step.holder)
    except LeaseLost as lost:
        raise StepFailed(
            "another run took over; this one does nothing more",
            where=step.run_id,
            found=lost.found,
            do="Follow the run that holds the lease.",
        ) from None
    outcome = outcome_of(events)
    if outcome in ("live", "abandoned", "released"):
        _release_target(step, events, live=outcome == "live")
    if outcome != "failed":
        _release_source(step)
    step.evidence.append("sealed", outcome=outcome, summary=_sentence(events, outcome), by=step.holder)
    return outcome


def _sentence(events: list[Event], outcome: str) -> str:
    found = [event for event in events if event["event"] == incident.SOURCE_FOUND]
    stays = outcome == "rolled_back" and found and found[-1]["state"] == "newer" and found[-1]["kept_in"] is None
    return NOT_REPLACED if stays else SENTENCES[outcome]


def close_rollback(step: Step) -> Report:
    """Close the cutover as rolled back; green when the application is back on SQLite, or never left it. Safe to run again.

    Raises:
        StepFailed: When nothing was rolled back, or the way back did not complete.
    """
    if step.run_id == step.own_run_id:
        raise StepFailed(
            "nothing was rolled back", where=step.own_run_id, do=f"See the task {runbook.OPEN_ROLLBACK} for the reason."
        )
    try:
        return close(step)
    except StepFailed:
        sealed = step.evidence.sealed
        if sealed is None or sealed["outcome"] not in ("rolled_back", "abandoned"):
            raise
        return Report(sealed["summary"], report_page.summary(step.evidence, step.plan))


def _release_source(step: Step) -> None:
    """Release the lease of the source. Where it cannot be reached, the seal releases it: a closed run holds nothing."""
    try:
        source_lease.release(step.source, step.run_id)
    except (CutoverError, OSError) as error:
        step.log.warning("the lease of the source was not released: %s", error)


def _release_target(step: Step, events: list[Event], *, live: bool) -> None:
    """Release the lease of the target; where it is down, the next run or the rollback takes it."""
    if not has_begun(events, runbook.APPLY_DDL):
        return
    try:
        held = ledger.lease(step.target)
        if held is not None and held.run_id == step.run_id:
            ledger.release(step.target, step.run_id, held.epoch)
    except CutoverError as error:
        step.log.warning("the lease of the target was not released: %s", error)
        if not live:
            step.evidence.append("target.pending", run_id=step.run_id)
