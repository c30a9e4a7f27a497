"""Running a step: check that it may run, call its body, record the end.

The record in the evidence, not the state of an Airflow task, is what later steps and branches believe. Nothing here knows
Airflow: its tasks run steps through ``tasks.operators``, and the break-glass rollback runs them without it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from include.cutover import rights
from include.cutover.errors import CutoverError, LeaseLost, Refused, StepFailed
from include.cutover.evidence import claims, lease
from include.cutover.evidence.record import Event, bring_back, sealing, secure
from include.cutover.masking import mask
from include.cutover.preflight import disk_space
from include.cutover.runs import clock, verdict
from include.cutover.runs.clock import OutOfTime
from include.cutover.runs.terms import Terms
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Body, Report, Step


def run(step: Step, body: Body, terms: Terms = Terms(), arguments: Mapping[str, Any] | None = None) -> Report:  # noqa: B008  # frozen
    """Check that the step may run, run it and record its end; then send the notices that wait, for at most two seconds.

    Args:
        step: The step.
        body: Its function.
        terms: When it may run; see ``runbook.terms_of``.
        arguments: Further keyword arguments of ``body``.

    Returns:
        The body's report; its outcome may be ``failed``.

    Raises:
        CutoverError: When the step may not run, or did not complete.
    """
    try:
        report = _carry_out(step, body, terms, arguments)
    except LeaseLost:
        raise
    except Exception:
        notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
        raise
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
    return report


def _carry_out(step: Step, body: Body, terms: Terms, arguments: Mapping[str, Any] | None) -> Report:
    started = time.monotonic()
    _secure_evidence(step, terms)
    with _claim(step, terms):
        try:
            if not terms.must_run:
                disk_space.require(step.name, step.plan, lambda: step.source, series=step.series)
            if not terms.opens and not terms.closes:
                may_run(step, terms)
            step.evidence.append(
                "step.begin",
                step=step.name,
                try_number=step.caller.try_number,
                pid=os.getpid(),
                by=step.holder,
                log_url=step.log_url,
            )
            report = body(step, **(arguments or {}))
        except LeaseLost:
            raise  # this run does nothing more, and records nothing
        except PermissionError as error:
            named = _without_rights(error, step.name)
            _record_error(step, started, named)
            raise named from None
        except BaseException as error:
            _record_error(step, started, error)
            raise
        _record_end(
            step,
            started,
            report.outcome,
            summary=report.summary,
            figures=report.figures,
            checks=[check.as_dict() for check in report.checks],
            warnings=[mask(warning) for warning in report.warnings],
        )
    _log(step, report)
    return report


def _without_rights(error: PermissionError, step: str) -> StepFailed:
    """Return the error for a place that nothing nearer to it has named."""
    return StepFailed(
        "the user of this step may not use a place that the step needs",
        where=str(error.filename or step),
        found=rights.reason(error),
        do="Fix its owner or its rights, then run the step again.",
    )


def _secure_evidence(step: Step, terms: Terms) -> None:
    """Let a step of a way back record in the second place where the first cannot be written; see ``second_place``."""
    if terms.must_run:
        disk_space.require(step.name, step.plan, lambda: step.source, must_run=True, series=step.series)
        if secure(step.series, step.run_id):
            step.find_evidence()
    elif terms.opens and (place := bring_back()):
        step.find_evidence()
        step.log.warning("the evidence was continued in %s, and is brought back", place)


def _record_end(step: Step, started: float, outcome: str, **result: Any) -> None:
    # A run without evidence cannot record: it failed to open.
    if step.evidence.exists:
        seconds = round(time.monotonic() - started, 3)
        step.evidence.append("step.end", step=step.name, outcome=outcome, seconds=seconds, **result)


def _record_error(step: Step, started: float, error: BaseException) -> None:
    text = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error}"
    try:
        if isinstance(error, OutOfTime):
            step.evidence.append("late", step=step.name, reason=error.found)
        _record_end(step, started, "refused" if isinstance(error, Refused) else "error", summary=mask(text))
    except CutoverError as unrecorded:  # a begin without an end is not a pass; the first error matters more
        step.log.error("the end of the step could not be recorded: %s", unrecorded)


def _log(step: Step, report: Report) -> None:
    for warning in report.warnings:
        step.log.warning("%s", mask(warning))
    for check in report.checks:
        level = {"passed": logging.INFO, "unknown": logging.WARNING}.get(check.outcome, logging.ERROR)
        detail = "; ".join(part for part in (check.where, check.found and f"found {check.found}") if part)
        step.log.log(level, "%s: %s%s", check.outcome, check.title, f" ({mask(detail)})" if detail else "")
    step.log.info("%s", mask(report.summary))


def _claim(step: Step, terms: Terms) -> AbstractContextManager[None]:
    plan, run_id = step.series, step.run_id
    if terms.opens:
        return claims.opening(plan, run_id, step.name)
    alone = (terms.way_back or terms.closes) and step.holds_lease()
    return claims.claim(plan, run_id, step.name, alone=alone, may_end=step.holds_lease)


def may_run(step: Step, terms: Terms) -> None:
    """Refuse a step whose time is over, or has not come, by the records of the evidence.

    Raises:
        LeaseLost, Refused: See ``Terms``.
    """
    events = step.evidence.events() if step.evidence.exists else []
    sealed = sealing(events)
    unfinished = sealed is not None and terms.way_back and sealed.get("outcome") == "failed"
    if sealed is not None and not unfinished:
        raise Refused(
            "this run is closed and its steps do not run again",
            where=step.run_id,
            found=f"closed as {sealed.get('outcome')} at {sealed['time']}",
            do="Trigger a new run.",
        )
    lease.check(step.series, step.run_id, step.holder)
    step.give_way()
    if unfinished:  # the cause was corrected, and the red step was cleared
        step.evidence.append("continued", by=step.holder)
    changed = [] if terms.way_back else step.changed
    if changed:
        raise Refused(
            "plan, SQL files or code changed since the run opened",
            where=step.run_id,
            expected="the same plan, SQL files and code until the run ends",
            found=f"changed: {', '.join(changed)}",
            do="The run goes back by itself. Do not change the files until then; then trigger a new run.",
        )
    events = step.evidence.events()
    _require_place(step, terms, events)
    if terms.in_time:
        require_in_time(step, events)
    gate = terms.gate
    if gate is not None and not verdict.gate_is_open(events, gate, step.entitled):
        answer = verdict.gate_answer(events, gate)
        raise Refused(
            f"the gate {gate} has no go by an entitled person",
            where=step.run_id,
            expected=f"Go by {', '.join(sorted(step.entitled))}",
            found="no recorded answer" if answer is None else f"{answer.get('answer')} by {answer.get('by')}",
            do="Marking the gate's task as success is no answer; trigger a new run and answer its gate.",
        )


def require_in_time(step: Step, events: Sequence[Event] | None = None, *, rest_from: str | None = None) -> None:
    """Refuse when the time is up; see ``Clock.require_in_time``. A run without a clock has no deadline.

    Raises:
        OutOfTime: When the time is up.
    """
    found = clock.read(list(events) if events is not None else step.evidence.events())
    if found is not None:
        found.require_in_time(step.name, rest_from=rest_from)


def _require_place(step: Step, terms: Terms, events: list[Event]) -> None:
    """Refuse a step that does not belong where the run is now: it was cleared, or a task before it was marked."""
    course = verdict.course(events)
    if terms.course and course not in terms.course:
        raise Refused(
            "the run is not in the right phase for this step",
            where=step.run_id,
            expected=f"a run with the course {' or '.join(terms.course)}",
            found=course,
            do="Do nothing, or trigger the rollback.",
        )
    if terms.touched and not verdict.has_touched(events):
        raise Refused(
            "this run has stopped nothing, so there is nothing to roll back",
            where=step.run_id,
            do="Answer its gate with No-go; it then ends by itself.",
        )
    before = [*terms.after, *terms.in_turn]
    missing = [name for name in before if not verdict.has_passed(events, name)]
    if missing or not verdict.passed_in_turn(events, terms.in_turn):
        raise Refused(
            "a step before this one has not passed, or ran again since",
            where=step.run_id,
            expected=f"{', then '.join(terms.in_turn) or ', '.join(terms.after)} passed",
            found=", ".join(f"{name} {verdict.last_word(events, name)}" for name in missing or before),
            do="Marking a task as success is no proof. Clear the first of these steps and all after it, or roll back.",
        )
