"""Watches the application on PostgreSQL: one round of checks at a time, until the aftercare's time is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg

from include.cutover.aftercare import checks as aftercare_checks
from include.cutover.aftercare import logs as aftercare_logs
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import statistics as aftercare_statistics
from include.cutover.aftercare import structure as aftercare_structure
from include.cutover.aftercare.checks import Observation, Rate, could_not
from include.cutover.aftercare.statistics import Standing
from include.cutover.application import configuration, requests
from include.cutover.checks import Check
from include.cutover.errors import CutoverError, LeaseLost, StepFailed
from include.cutover.steps.aftercare.watch import Watch, as_sentence, notify
from include.cutover.steps.call import NotYet
from include.cutover.steps.configuration import kept_configuration
from include.cutover.steps.step import Report
from include.cutover.target import session as target_session


def look(watch: Watch) -> Report:
    """Run the round of checks that is due and record it; the last one ends the watch. A killed round runs again.

    Raises:
        NotYet: After each round but the last, and when none is due.
        StepFailed: After the last, unless every round was green.
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
    summary = f"{why}; {len(made)} rounds, {len(made) - len(bad)} green"
    if bad:
        raise StepFailed(
            "not every round was green",
            where=watch.run_id,
            expected=f"{len(made)} green rounds",
            found="; ".join(f"{event['time'][11:19]} {event['outcome']}: {event['summary']}" for event in bad[-5:]),
            do="Read the post-cutover report.",
        )
    return Report(summary, {"looks": len(made), "green": len(made) - len(bad)})


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
    checks += _checked(
        "aftercare_statistics", "PostgreSQL's statistics are within their limits", lambda: _statistics(watch, opened)
    )
    checks += _checked(
        "aftercare_sequences",
        "Every sequence is ahead of its keys",
        lambda: aftercare_checks.sequences(
            watch.target, watch.plan.target_schema, watch.of_cutover.manifest.sqlite_sequence
        ),
    )
    checks += _checked(aftercare_structure.NAME, aftercare_structure.TITLE, lambda: [_structure(watch)])
    checks += _growth(watch, opened, made, now, last=now >= end)
    written = _checked("aftercare_write", "The application's background job writes", lambda: _writes(watch))
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
    watch.log.info("round %s: %s, %d of %d checks passed", event["number"], outcome, passed, len(checks))
    if outcome != "green" and (before is None or before["outcome"] != outcome or before["summary"] != event["summary"]):
        notify(watch, f"aftercare.{event['seq']}", "aftercare", as_sentence(event["summary"]))


def _checked(name: str, title: str, check: Callable[[], Sequence[Check]]) -> list[Check]:
    """Return the checks, or one that says why they could not be made: one that hangs or fails hides no other."""
    try:
        return list(check())
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


def _structure(watch: Watch) -> Check:
    before, schema = aftercare_structure.at_go_live(watch.cutover), watch.plan.target_schema
    found = aftercare_structure.state(watch.target, schema, watch.ends.application_role(watch.plan))
    return aftercare_structure.check(before, found, schema)


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

        def check(growing: Any = growing, rate: Rate = rate, own: Any = own) -> list[Check]:
            seen = Observation(started, since, now, own, last)
            found = aftercare_checks.growth(watch.target, watch.plan.target_schema, growing, rate, seen)
            return [found] if found is not None else []

        checks += _checked(f"aftercare_growth_{growing.table}", f"{growing.table} grows as fast as before", check)
    return checks


def _writes(watch: Watch) -> list[Check]:
    if watch.plan.smoke_tests is None:
        return []
    found = requests.writes(watch.plan.smoke_tests, watch.target, watch.plan.target_schema)
    return [] if found is None else [found]


def _secrets(watch: Watch) -> set[str]:
    settings = watch.plan.configuration
    return set() if settings is None else configuration.secrets(settings, kept_configuration(watch.of_cutover, settings))
