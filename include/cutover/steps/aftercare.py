"""The aftercare of a cutover that went live, step by step. Nothing here changes the run's evidence, which is sealed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import psycopg

from include.cutover.aftercare import checks as aftercare_checks
from include.cutover.aftercare import first_backup as aftercare_first_backup
from include.cutover.aftercare import logs as aftercare_logs
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import report as aftercare_report
from include.cutover.aftercare import rows_since_go_live
from include.cutover.aftercare import statistics as aftercare_statistics
from include.cutover.aftercare.checks import Rate, could_not
from include.cutover.aftercare.statistics import Standing
from include.cutover.application import configuration, requests
from include.cutover.checks import Check
from include.cutover.errors import CutoverError, LeaseLost, Refused, StepFailed
from include.cutover.locks import locked
from include.cutover.masking import mask
from include.cutover.people import notices
from include.cutover.plan.afterwards import Aftercare
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.go_live import kept_configuration
from include.cutover.steps.step import Caller, Ends, Report, Step
from include.cutover.target import session as target_session

log = logging.getLogger("cutover")

_GRACE = timedelta(minutes=10)
_COUNT_SECONDS = 30.0
_CLAIM_SECONDS = 120.0


class NotYet(Exception):
    """There is nothing to do before ``until``; the caller frees its worker and comes again."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"not before {until.isoformat(timespec='seconds')}")
        self.until = until


class Watch(Step):
    """What a step of the aftercare works with.

    Attributes:
        cutover: The evidence of the cutover, to be read only.
        evidence: The aftercare's own.
    """

    def __init__(self, plan_name: str, name: str, caller: Caller, ends: Ends) -> None:
        run_id = aftercare_record.subject_of(plan_name, caller.run_id) or str(caller.params.get("run_id") or "").strip()
        if not run_id:
            raise Refused(
                "the form names no run", where=f"plan {plan_name}", do="Give the run id of a cutover that is live."
            )
        super().__init__(plan_name, name, Caller(caller.dag_id, run_id, caller.actor, caller.params), ends)
        self.cutover = self.evidence
        self.caller = caller
        self.run_id = str((self.cutover.last("run.opened") or {}).get("run_id") or run_id) if self.cutover.exists else run_id
        self.evidence = aftercare_record.evidence_of(plan_name, self.run_id)

    @cached_property
    def target(self) -> str:
        """libpq connection string of the target; its sessions can be told from the application's."""
        return self.ends.target_conninfo(self.plan, f"{aftercare_statistics.OWN_SESSIONS}:{self.name}")

    @cached_property
    def of_cutover(self) -> Step:
        """The cutover's own step: its manifest and its snapshot."""
        return Step(self.plan.name, self.name, Caller(self.caller.dag_id, self.run_id), self.ends, self.plan)

    @property
    def settings(self) -> Aftercare:
        """What the plan says."""
        return self.plan.aftercare


Body = Callable[..., Report]


def run(watch: Watch, body: Body, arguments: Mapping[str, Any] | None = None) -> Report:
    """Run one step of the aftercare: one attempt of it at a time, and its end recorded.

    Raises:
        NotYet: When it is not due; nothing was recorded.
        CutoverError: What ``body`` raises; it is recorded.
    """
    begun = aftercare_record.now()
    with locked(watch.evidence.folder / f".{watch.name}.lock", seconds=_CLAIM_SECONDS):
        try:
            report = body(watch, **(arguments or {}))
        except NotYet:
            raise
        except BaseException as error:
            text = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error}"
            if watch.evidence.exists:
                _end(watch, begun, "error", summary=mask(text))
            raise
        _end(watch, begun, report.outcome, summary=report.summary, figures=report.figures)
    for check in report.checks:
        if check.outcome != "passed":
            watch.log.warning("%s: %s (found %s)", check.outcome, check.title, check.found)
    watch.log.info("%s", report.summary)
    return report


def _end(watch: Watch, begun: datetime, outcome: str, **told: Any) -> None:
    seconds = round((aftercare_record.now() - begun).total_seconds(), 3)
    watch.evidence.append("step.end", step=watch.name, outcome=outcome, seconds=seconds, **told)


# --- its beginning ------------------------------------------------------------------------------------------------------


def begin(watch: Watch) -> Report:
    """Open the aftercare of a run that is live; a second try finds it open.

    Raises:
        Refused: When there is no such run, it is not live, or another run of this DAG looks after it.
    """
    run, settings = watch.run_id, watch.settings
    if not aftercare_record.is_live(watch.cutover):
        raise Refused(
            "there is nothing to look after",
            where=run,
            expected="a cutover that is live",
            found="no such run" if not watch.cutover.exists else "it is not live, or is rolled back",
            do="Give the run id of the cutover.",
        )
    opened = watch.evidence.last(aftercare_record.OPENED) if watch.evidence.exists else None
    if opened is not None:
        if opened["own_run_id"] != watch.own_run_id:
            raise Refused("this run is looked after already", where=run, found=f"by {opened['own_run_id']}")
        return Report("the aftercare is open")
    live = watch.cutover.last("run.opened") or {}
    kept = watch.cutover.last(aftercare_record.BASELINE) or {}
    stopped = datetime.fromisoformat((watch.cutover.last("services.stopped") or watch.cutover.events()[0])["time"])
    rates = {
        item.table: aftercare_checks.rate_before(watch.of_cutover.decided.file, watch.plan, item, stopped).as_dict()
        for item in settings.growing
    }
    started = aftercare_record.started_at(watch.cutover)
    statistics = kept.get("statistics") or {}
    watch.evidence.append(
        aftercare_record.OPENED,
        run_id=run,
        plan=watch.plan.name,
        application=watch.plan.application,
        own_run_id=watch.own_run_id,
        actor=live.get("actor"),  # who took it live; who triggered this DAG may be anybody
        notices=bool(live.get("notices", True)),
        started=started.isoformat(),
        until=(aftercare_record.now() + timedelta(minutes=settings.minutes)).isoformat(),
        statistics=statistics,
        logs=kept.get("logs") or {},
        rates=rates,
    )
    told = "; ".join(f"{table} {Rate(**rate).per_second * 60:,.1f} a minute before" for table, rate in rates.items())
    return Report(f"looking after {run} for {settings.minutes:g} minutes" + (f"; {told}" if told else ""))


# --- the looks ----------------------------------------------------------------------------------------------------------


def look(watch: Watch) -> Report:
    """Make the look that is due and record it; the last one ends the watch. Killed in between, it is made again.

    Raises:
        NotYet: After each look but the last, and when none is due.
        StepFailed: After the last, unless every look was green.
    """
    settings = watch.settings
    if not aftercare_record.is_live(watch.cutover):
        return _watched(watch, "the application is rolled back")
    events = watch.evidence.events()
    due = aftercare_record.next_look(events, settings)
    if due is not None and due > aftercare_record.now():
        raise NotYet(due)
    if due is not None:
        _look(watch)
        due = aftercare_record.next_look(watch.evidence.events(), settings)
    if due is not None:
        raise NotYet(due)
    return _watched(watch, "the time is over")


def _watched(watch: Watch, why: str) -> Report:
    if watch.evidence.last(aftercare_record.WATCHED) is None:
        watch.evidence.append(aftercare_record.WATCHED, why=why)
    made = aftercare_record.looks(watch.evidence.events())
    bad = [event for event in made if event["outcome"] != "green"]
    told = f"{why}; {len(made)} looks, {len(made) - len(bad)} green"
    if bad:
        raise StepFailed(
            "not every look was green",
            where=watch.run_id,
            expected=f"{len(made)} green looks",
            found="; ".join(f"{event['time'][11:19]} {event['outcome']}: {event['summary']}" for event in bad[-5:]),
            do="Read the post-cutover report.",
        )
    return Report(told, {"looks": len(made), "green": len(made) - len(bad)})


def _look(watch: Watch) -> None:
    events = watch.evidence.events()
    opened = next(event for event in events if event["event"] == aftercare_record.OPENED)
    made = aftercare_record.looks(events)
    before = made[-1] if made else None
    now, end = aftercare_record.now(), aftercare_record.end_of(opened)
    checks: list[Check] = []
    latency: dict[str, float] = {}
    if watch.plan.smoke_tests is not None:
        found, latency = aftercare_checks.health_and_latency(watch.plan.smoke_tests, watch.settings)
        checks += found
    logs, places = aftercare_logs.check(
        watch.plan.services,
        watch.settings,
        (before or {}).get("logs") or opened["logs"],
        _secrets(watch),
        watch.remote,
    )
    checks += logs
    checks += _asked(
        "aftercare_statistics", "PostgreSQL's statistics are as they should be", lambda: _statistics(watch, opened)
    )
    checks += _asked(
        "aftercare_sequences",
        "Every sequence is ahead of its keys",
        lambda: aftercare_checks.sequences(
            watch.target, watch.plan.target_schema, watch.of_cutover.manifest.sqlite_sequence
        ),
    )
    checks += _growth(watch, opened, made, now, last=now >= end)
    written = _asked("aftercare_write", "The application's background job writes", lambda: _writes(watch))
    checks += written
    outcome = aftercare_record.judge(checks, watch.settings.accept_unknown)
    event = watch.evidence.append(
        aftercare_record.LOOK,
        number=len(made) + 1,
        outcome=outcome,
        summary=aftercare_record.sentence(checks),
        checks=[check.as_dict() for check in checks],
        latency=latency,
        logs={**((before or {}).get("logs") or opened["logs"]), **places},
        wrote=sum(check.outcome == "passed" for check in written),
    )
    passed = sum(check.outcome == "passed" for check in checks)
    watch.log.info("look %s: %s, %d of %d checks passed", event["number"], outcome, passed, len(checks))
    if outcome != "green" and (before is None or before["outcome"] != outcome or before["summary"] != event["summary"]):
        tell(watch, f"aftercare.{event['seq']}", "aftercare", f"{_capital(event['summary'])}.")


def _asked(name: str, title: str, ask: Callable[[], Sequence[Check]]) -> list[Check]:
    """The checks, or one that says why they could not be made: one that hangs or fails hides no other."""
    try:
        return list(ask())
    except LeaseLost:
        raise
    except (CutoverError, psycopg.Error) as error:
        if isinstance(error, psycopg.Error):
            error = target_session.as_cutover_error(error, "PostgreSQL")
        return [could_not(name, title, error)]


def _statistics(watch: Watch, opened: Mapping[str, Any]) -> list[Check]:
    before = Standing.from_dict(opened["statistics"]) if opened["statistics"] else None
    role = watch.ends.application_role(watch.plan)
    return aftercare_statistics.checks(watch.target, watch.plan.target_schema, watch.settings, before, role)


def _growth(
    watch: Watch, opened: Mapping[str, Any], made: Sequence[Mapping[str, Any]], now: datetime, *, last: bool
) -> list[Check]:
    started = datetime.fromisoformat(opened["started"])
    since = datetime.fromisoformat(made[-1]["time"]) if made else started
    write = watch.plan.smoke_tests.write if watch.plan.smoke_tests is not None else None
    checks: list[Check] = []
    for growing in watch.settings.growing:
        ours = write is not None and write.table == growing.table
        own = [datetime.fromisoformat(item["time"]) for item in made if ours for _ in range(item["wrote"])]
        rate = Rate(**opened["rates"][growing.table])

        def ask(growing: Any = growing, rate: Rate = rate, own: Any = own) -> list[Check]:
            found = aftercare_checks.growth(
                watch.target, watch.plan.target_schema, growing, rate, since, started, now, own, last=last
            )
            return [found] if found is not None else []

        checks += _asked(f"aftercare_growth_{growing.table}", f"Rows of {growing.table} come as fast as before", ask)
    return checks


def _writes(watch: Watch) -> list[Check]:
    if watch.plan.smoke_tests is None:
        return []
    found = requests.writes(watch.plan.smoke_tests, watch.target, watch.plan.target_schema)
    return [] if found is None else [found]


def _secrets(watch: Watch) -> set[str]:
    settings = watch.plan.configuration
    return set() if settings is None else configuration.secrets(settings, kept_configuration(watch.of_cutover, settings))


# --- the first backup ---------------------------------------------------------------------------------------------------


def first_backup(watch: Watch) -> Report:
    """Dump PostgreSQL, restore the dump elsewhere, compare. Safe to run again; one that is proven is kept as it is.

    A failed check is told and asked about as a red look is.
    """
    known = watch.evidence.last(aftercare_record.BACKUP)
    if known is not None and known["dump"]["proven"]:
        return Report("the first backup is there")
    if not aftercare_record.is_live(watch.cutover):
        return Report("the application is rolled back; there is nothing to back up")
    dumped = aftercare_first_backup.take(watch.target, watch.plan, watch.cutover.folder.name)
    outcome = aftercare_record.judge(dumped.checks, watch.settings.accept_unknown)
    summary = aftercare_record.sentence(dumped.checks) or f"{dumped.bytes:,} bytes, restored and equal"
    event = watch.evidence.append(
        aftercare_record.BACKUP,
        outcome=outcome,
        summary=summary,
        checks=[check.as_dict() for check in dumped.checks],
        dump={name: value for name, value in dumped.as_dict().items() if name != "checks"},
    )
    if outcome != "green":
        tell(watch, f"aftercare.{event['seq']}", "aftercare", f"{_capital(summary)}.")
    return Report(summary, {"bytes": dumped.bytes, "rows": sum(dumped.rows.values())}, dumped.checks)


# --- the question -------------------------------------------------------------------------------------------------------


def wait_for_question(watch: Watch) -> aftercare_record.Question | None:
    """The red finding that somebody must be asked about; None when there will be none.

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
        event["event"] == aftercare_record.BACKUP or (event["event"] == "step.end" and event["step"] == "first_backup")
        for event in events
    )
    given_up = aftercare_record.end_of(opened) + timedelta(seconds=watch.settings.interval_seconds) + _GRACE
    if (ended and backed_up) or aftercare_record.now() > given_up:
        return None
    raise NotYet(aftercare_record.now() + timedelta(seconds=min(60.0, max(2.0, watch.settings.interval_seconds / 2))))


def briefing(watch: Watch, question: aftercare_record.Question) -> str:
    """What a person needs to decide, as Markdown: what is wrong, and what a rollback would leave behind."""
    made = aftercare_record.looks(watch.evidence.events())
    lines = [
        f"**{watch.plan.application}** is live on PostgreSQL since {aftercare_record.started_at(watch.cutover):%H:%M} UTC "
        f"(run `{watch.run_id}`). {len(made)} looks, {sum(event['outcome'] == 'green' for event in made)} green.",
        "",
        "| check | outcome | expected | found |",
        "|---|---|---|---|",
    ]
    bad = [check for check in question.checks if check.outcome != "passed"]
    lines += [
        f"| {_cell(check.title)} | {check.outcome} | {_cell(check.expected)} | {_cell(check.found)} |" for check in bad
    ]
    lines += ["", f"**A rollback would leave behind, in the kept schema and exported:** {written_since(watch)}.", ""]
    lines += [f"- {_cell(check.do)}" for check in bad if check.do]
    lines += [
        "",
        f"**No answer within {watch.plan.gates.response_minutes:g} minutes means that it stays live**; the next red look "
        f"asks again. A rollback can be triggered at any time: `rollback_{watch.plan.name}`.",
    ]
    return "\n".join(lines)


def written_since(watch: Watch) -> str:
    """The rows that were written to the target since go-live, in words. Never raises."""
    marked = watch.cutover.last(rows_since_go_live.MARKED)
    if marked is None:
        return "unknown, as no marker was taken at go-live"
    try:
        found = rows_since_go_live.count(
            watch.target,
            watch.plan.target_schema,
            rows_since_go_live.Marker.from_dict(marked),
            watch.of_cutover.decided.file,
            seconds=_COUNT_SECONDS,
        )
    except (CutoverError, psycopg.Error, OSError) as error:
        return f"unknown ({error.message if isinstance(error, CutoverError) else type(error).__name__})"
    told = [str(changes) for changes in found.values() if changes.any]
    total = sum(changes.written for changes in found.values())
    return f"{total:,} rows ({'; '.join(told)})" if told else "no rows"


def ask(watch: Watch, question: aftercare_record.Question) -> str:
    """Record that the question is asked, and return what to show."""
    text = briefing(watch, question)
    watch.evidence.append(
        aftercare_record.ASKED,
        gate=aftercare_record.QUESTION,
        minutes=watch.plan.gates.response_minutes,
        because=question.seq,
    )
    return text


def answered(watch: Watch, chosen: str, by: str | None) -> str:
    """Record an answer. Only that of the lead or a deputy rolls back; anything else, and no answer, leaves it live."""
    answer = (
        aftercare_record.ROLL_BACK
        if chosen == aftercare_record.ROLL_BACK and by in watch.entitled
        else aftercare_record.STAY
    )
    watch.evidence.append(aftercare_record.ANSWERED, gate=aftercare_record.QUESTION, answer=answer, by=by, automatic=False)
    watch.log.info("%s by %s", answer, by or "nobody in time")
    if by is None:
        events = watch.evidence.events()
        last = next(
            event for event in reversed(events) if event["event"] in (aftercare_record.LOOK, aftercare_record.BACKUP)
        )
        said = f"Nobody answered within {watch.plan.gates.response_minutes:g} minutes, so it stays live. {last['summary']}."
        tell(watch, f"aftercare.{events[-1]['seq']}", "aftercare", said)
    return answer


def request_rollback(watch: Watch) -> str | None:
    """Record what the rollback is asked for, and by whom, and return its run id; None where nobody asked.

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


# --- the end ------------------------------------------------------------------------------------------------------------


def close(watch: Watch) -> Report:
    """Send the closing notice and write the post-cutover report. Safe to run again: a notice is sent once.

    Raises:
        StepFailed: On purpose, unless every look was green and everything could be looked at: the run is red then.
    """
    if not watch.evidence.exists or watch.evidence.last(aftercare_record.OPENED) is None:
        raise StepFailed("the aftercare was never opened", where=watch.run_id, do="See the task open_aftercare.")
    closed = watch.evidence.last(aftercare_record.CLOSED)
    if closed is None:
        events = watch.evidence.events()
        if aftercare_record.answer(events, watch.entitled) is not None and aftercare_record.is_live(watch.cutover):
            ended = "rolled_back"  # it is on its way
        else:
            ended = aftercare_record.outcome(events, live=aftercare_record.is_live(watch.cutover))
        written = written_since(watch) if ended != "rolled_back" else ""
        closed = watch.evidence.append(
            aftercare_record.CLOSED, outcome=ended, summary=aftercare_record.ENDS[ended], written=written
        )
    ended = str(closed["outcome"])
    if ended != "rolled_back":  # that has a notice of its own
        tell(watch, "closing", "closing", f"{_capital(_ended(watch, closed))}.")
    watch.evidence.save(aftercare_report.FILE, aftercare_report.render(watch.evidence, watch.cutover, watch.plan))
    if ended != "quiet":
        raise StepFailed(
            closed["summary"], where=watch.run_id, do="Read the post-cutover report; then go after what is red."
        )
    return Report(_ended(watch, closed), {"outcome": ended})


def _ended(watch: Watch, closed: Mapping[str, Any]) -> str:
    made = aftercare_record.looks(watch.evidence.events())
    return f"{closed['summary']}, of {len(made)} looks in {watch.settings.minutes:g} minutes"


def tell(watch: Watch, notice: str, template: str, reason: str) -> None:
    """Post one notice to every channel, once, and send what can be sent now. Here alone the aftercare speaks to people.

    Args:
        notice: The key of "once".
        template: Its text in the plan's notices.
    """
    opened = watch.evidence.last(aftercare_record.OPENED) or {}
    lead, clock = watch.plan.people.lead, notice_steps.clock_of(watch.cutover, watch.plan)
    values = {
        "freeze": f"{clock.freeze:%Y-%m-%d %H:%M} UTC",
        "deadline": f"{clock.deadline:%Y-%m-%d %H:%M} UTC",
        "time": f"{aftercare_record.now():%Y-%m-%d %H:%M} UTC",
        "lead": f"{lead.name} ({lead.contact or lead.email})",
        "application": watch.plan.application,
        "minutes": f"{watch.settings.minutes:g}",
        "reason": reason[:800],
        "run": watch.run_id,
        "end": f"{datetime.fromisoformat(opened['until']):%Y-%m-%d %H:%M} UTC" if opened.get("until") else "the end",
    }
    subject = {
        "aftercare": f"{watch.plan.application}: PostgreSQL needs attention",
        "closing": f"{watch.plan.application}: the aftercare is over",
    }[template]
    text = notices.render(getattr(watch.plan.notices, template), values)
    message = notices.Message(notice, subject, text, lead=template == "aftercare")
    notices.post(watch.evidence, message, hold=notice_steps.hold(watch.plan) if template == "closing" else None)
    notice_steps.deliver(watch.evidence, watch.plan, watch.ends.channels)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
