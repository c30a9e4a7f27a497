"""Opens a rollback that a person, or the aftercare, asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import rows_since_go_live
from include.cutover.aftercare.retention.record import refuse_removed
from include.cutover.errors import Refused
from include.cutover.evidence import claims, lease
from include.cutover.evidence.record import Event, Evidence, runs, sealing
from include.cutover.runs import deciders, incident
from include.cutover.runs.verdict import has_touched
from include.cutover.steps.step import Report, Step, frozen_plan
from include.cutover.target import schema as target_schema


def open_rollback(step: Step, *, anybody: bool = False) -> Report:
    """Find the run to roll back, take the lease from it, and report the rows written to the target since go-live.

    Nothing is stopped yet. Those rows will not be in SQLite, which needs no confirmation. Safe to run again.

    Args:
        step: The step, of the run that rolls back.
        anybody: For the command, where the right to the files decides: anyone may ask, also to end a run that has stopped
            nothing yet.

    Raises:
        Refused: When no run is live or in flight, when that run stopped nothing yet, when it is rolled back already, or when
            anyone but the lead or a deputy asks.
    """
    plan = step.plan
    request = _request(step)
    if not anybody:
        deciders.require_decider(plan, request.by, "roll back")
    subject = _subject(plan.name, request)
    run_id = _run_id(subject)
    events = subject.events()
    sealed = sealing(events)
    if not _gives_rows_up(subject, request):
        _refuse_ended(run_id, sealed)
    if not anybody:
        _refuse_untouched(plan.name, run_id, events)
    own = Evidence.of(plan.name, step.own_run_id)
    begun_before = own.exists and own.last("rollback.opened") is not None
    # A later try has no right to take the lease back from a run that took it since.
    taken = (lease.check if begun_before else lease.take_over)(plan.name, run_id, step.holder)
    refuse_removed(plan.name, subject.folder.name)  # with the lease: from here on retention removes nothing
    claims.wait_for_others(plan.name, lambda: lease.holds(plan.name, run_id, step.holder))
    if not begun_before:
        own.append("rollback.opened", run_id=step.own_run_id, subject=run_id, by=request.by, reason=request.reason)
    asked = {"by": request.by, "reason": request.reason, "give_up_rows": request.give_up_rows, "holder": step.holder}
    if sealed is not None:
        subject.append("reopened", **asked)
    elif subject.last("rollback.asked", holder=step.holder) is None:
        subject.append("rollback.asked", **asked)
    schema = (frozen_plan(subject) or plan).target_schema
    written = _count_written(subject, schema, run_id, lambda: step.target)
    summary = [f"rolling back {run_id}: {request.reason}", written.summary]
    figures = {"subject": run_id, "epoch": taken.epoch, "rows_written_after_go_live": written.figures}
    return Report("; ".join(filter(None, summary)), figures)


def _count_written(subject: Evidence, schema: str, run_id: str, target: Callable[[], str]) -> rows_since_go_live.Written:
    """Count the rows written since go-live, where they are: a rollback before this one may have set the schema aside."""
    if subject.last("target.kept") is not None:
        return rows_since_go_live.newest(subject)
    kept = target_schema.kept_name(schema, run_id)
    return rows_since_go_live.record_count(subject, lambda: kept if target_schema.exists(target(), kept) else schema, target)


def _gives_rows_up(subject: Evidence, request: _Request) -> bool:
    """Report whether the newest run went back to a file with rows beyond the backup, which the request now gives up."""
    found = subject.last(incident.SOURCE_FOUND)
    return (
        request.give_up_rows is not None
        and found is not None
        and found["kept_in"] is None
        and [run for run in runs(subject.folder.parent.name) if run.last("run.opened")][-1].folder == subject.folder
    )


def _refuse_ended(run_id: str, sealed: Event | None) -> None:
    """Refuse a run that ended in another way than live, unless its way back is not complete."""
    if sealed is not None and sealed.get("outcome") not in ("live", "failed"):
        raise Refused(
            "there is nothing to roll back",
            where=run_id,
            expected="a run that is live or in flight",
            found=f"it ended as {sealed.get('outcome')} at {sealed['time']}",
            do="Nothing was changed.",
        )


def _refuse_untouched(plan: str, run_id: str, events: list[Event]) -> None:
    """Refuse a run that has stopped nothing and can still end by itself: with its lease lost it cannot."""
    opened = next((event for event in reversed(events) if event["event"] == "run.opened"), {})
    if not has_touched(events) and lease.holds(plan, run_id, f"{opened.get('dag_id')}/{run_id}"):
        raise Refused(
            "there is nothing to roll back: the run has stopped nothing yet",
            where=run_id,
            do="Answer its gate with No-go; it then ends by itself. If Airflow ended it, clear its task close_run.",
        )


@dataclass(frozen=True)
class _Request:
    """A request for a rollback.

    Attributes:
        by: Its author.
        run_id: The run; empty for the one that is live or in flight.
        reason: Its reason.
        give_up_rows: Number of rows beyond the backup in the SQLite file that the author agreed to give up; None without.
    """

    by: str | None
    run_id: str
    reason: str
    give_up_rows: int | None = None


def _request(step: Step) -> _Request:
    """Read the request from the trigger form; for a run that the aftercare triggered, from the aftercare's evidence.

    Its actor in Airflow is the person who took the application live, and not the one who answered the aftercare's question.
    """
    found = aftercare_record.request(step.plan.name, step.own_run_id)
    if found is not None:
        return _Request(found["by"], str(found["subject"]), str(found["reason"]))
    rows = step.params.get("give_up_rows")
    return _Request(
        step.actor,
        str(step.params.get("run_id") or "").strip(),
        str(step.params["reason"]),
        None if rows is None else int(rows),
    )


def _run_id(evidence: Evidence) -> str:
    opened = evidence.last("run.opened")
    return str(opened["run_id"]) if opened else evidence.folder.name


def _subject(plan: str, request: _Request) -> Evidence:
    wanted = request.run_id
    if wanted:
        found = Evidence.of(plan, wanted)
        if found.exists and found.last("run.opened") is not None:
            return found
    else:
        for run in reversed(runs(plan)):
            if run.last("run.opened") is None:
                continue
            sealed = run.sealed
            if sealed is None or sealed.get("outcome") in ("live", "failed") or _gives_rows_up(run, request):
                return run
    known = ", ".join(_run_id(run) for run in runs(plan) if run.last("run.opened")) or "none"
    raise Refused(
        "there is no such run to roll back" if wanted else "there is nothing to roll back",
        where=f"plan {plan}",
        expected="a run that is live or in flight",
        found=f"run {wanted}" if wanted else "no run is live or in flight",
        do=f"Runs with evidence: {known}.",
    )
