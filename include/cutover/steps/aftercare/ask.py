"""Asks the lead and the deputies, after a red finding, whether to roll back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import psycopg

from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import rows_since_go_live
from include.cutover.aftercare.marker import MARKED, Marker
from include.cutover.checks import Check
from include.cutover.errors import CutoverError
from include.cutover.report.words import md
from include.cutover.runs import runbook
from include.cutover.steps.aftercare.watch import Watch, notify
from include.cutover.steps.call import NotYet

_GRACE = timedelta(minutes=10)
_COUNT_SECONDS = 30.0


def wait_for_question(watch: Watch) -> aftercare_record.OpenQuestion | None:
    """Return the red finding that people must be asked about; None when there will be none.

    Raises:
        NotYet: While there may still be one.
    """
    events = watch.evidence.events()
    if not aftercare_record.is_live(watch.cutover) or aftercare_record.answer(events, watch.entitled) is not None:
        return None
    found = aftercare_record.open_question(events)
    if found is not None:
        return found
    opened = next(event for event in events if event["event"] == aftercare_record.OPENED)
    ended = any(event["event"] == aftercare_record.WATCHED for event in events)
    backed_up = not watch.settings.first_backup.wanted or any(
        event["event"] == aftercare_record.BACKUP or (event["event"] == "step.end" and event["step"] == runbook.FIRST_BACKUP)
        for event in events
    )
    given_up = aftercare_record.end_of(opened) + timedelta(seconds=watch.settings.interval_seconds) + _GRACE
    if (ended and backed_up) or aftercare_record.now_in(events) > given_up:
        return None
    raise NotYet(aftercare_record.now() + timedelta(seconds=min(60.0, max(2.0, watch.settings.interval_seconds / 2))))


def briefing(watch: Watch, question: aftercare_record.OpenQuestion) -> str:
    """Return the facts for a decision, as Markdown: the red checks, and the rows that a rollback would leave behind."""
    made = aftercare_record.looks(watch.evidence.events())
    lines = [
        f"**{watch.plan.application}** is live on PostgreSQL since {aftercare_record.started_at(watch.cutover):%H:%M} UTC "
        f"(run `{watch.run_id}`). {len(made)} rounds, {sum(event['outcome'] == 'green' for event in made)} green.",
        "",
        "| check | outcome | expected | found |",
        "|---|---|---|---|",
    ]
    bad = [check for check in question.checks if check.outcome != "passed"]
    lines += [f"| {md(check.title)} | {check.outcome} | {md(check.expected)} | {md(check.found)} |" for check in bad]
    lines += ["", f"**After a rollback, only the kept schema and the export hold:** {written_since(watch)}.", ""]
    lines += [f"- {md(check.do)}" for check in bad if check.do]
    lines += [
        "",
        f"**No answer within {watch.plan.gates.response_minutes:g} minutes means that it stays live**; the next red round "
        f"asks again. A rollback can be triggered at any time: `rollback_{watch.plan.name}`.",
    ]
    return "\n".join(lines)


def written_since(watch: Watch) -> str:
    """Describe the rows that were written to the target since go-live. Never raises."""
    marked = watch.cutover.last(MARKED)
    if marked is None:
        return "unknown, as no marker was taken at go-live"
    try:
        found = rows_since_go_live.count(
            watch.target,
            watch.plan.target_schema,
            Marker.from_dict(marked),
            watch.of_cutover.decided.file,
            seconds=_COUNT_SECONDS,
        )
    except (CutoverError, psycopg.Error, OSError) as error:
        return f"unknown ({error.message if isinstance(error, CutoverError) else type(error).__name__})"
    listed = [str(changes) for changes in found.values() if changes.any]
    total = sum(changes.written for changes in found.values())
    return f"{total:,} rows ({'; '.join(listed)})" if listed else "no rows"


def ask(watch: Watch, question: aftercare_record.OpenQuestion) -> str:
    """Record that the question is asked, and return its text."""
    text = briefing(watch, question)
    watch.evidence.append(
        aftercare_record.ASKED,
        gate=aftercare_record.QUESTION,
        minutes=watch.plan.gates.response_minutes,
        because=question.seq,
    )
    return text


def record_answer(watch: Watch, chosen: str, by: str | None) -> str:
    """Record an answer. Only one of the lead or a deputy rolls back; any other, and no answer, leaves it live."""
    answer = (
        aftercare_record.ROLL_BACK
        if chosen == aftercare_record.ROLL_BACK and by in watch.entitled
        else aftercare_record.STAY
    )
    watch.evidence.append(aftercare_record.ANSWERED, gate=aftercare_record.QUESTION, answer=answer, by=by, automatic=False)
    watch.log.info("%s by %s", answer, by or "the time limit")
    if by is None:
        events = watch.evidence.events()
        last = next(
            event for event in reversed(events) if event["event"] in (aftercare_record.LOOK, aftercare_record.BACKUP)
        )
        said = f"No answer within {watch.plan.gates.response_minutes:g} minutes, so it stays live. {last['summary']}."
        notify(watch, f"aftercare.{events[-1]['seq']}", "aftercare", said)
    return answer


def request_rollback(watch: Watch) -> str | None:
    """Record why and by whom the rollback is asked for, and return its run id; None where no one requested it.

    Safe to run again: one answer has one run.
    """
    events = watch.evidence.events()
    found = aftercare_record.answer(events, watch.entitled)
    if found is None or not aftercare_record.is_live(watch.cutover):
        return None
    run_id = aftercare_record.rollback_run_id(watch.run_id, found)
    if watch.evidence.last(aftercare_record.REQUESTED, rollback_run_id=run_id) is None:
        because = aftercare_record.sentence([Check(**check) for check in _last_red(events)["checks"]])
        watch.evidence.append(
            aftercare_record.REQUESTED,
            rollback_run_id=run_id,
            subject=watch.run_id,
            by=found["by"],
            reason=f"aftercare: {because}"[:500],
        )
    return run_id


def _last_red(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(
        event
        for event in reversed(events)
        if event["event"] in (aftercare_record.LOOK, aftercare_record.BACKUP) and event.get("outcome") == "red"
    )
