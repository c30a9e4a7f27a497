"""Brings the application back on SQLite: the steps that release and rollback share.

They need the evidence and the plan only, and work with PostgreSQL down. Each verifies its outcome and can run again.
"""

from __future__ import annotations

from include.cutover import files
from include.cutover.application import requests, services
from include.cutover.checks import Check
from include.cutover.evidence import steady
from include.cutover.runs import incident
from include.cutover.source import cloning, fence, schema, writable
from include.cutover.steps import source_file
from include.cutover.steps.quiesce import stop_again
from include.cutover.steps.step import Report, Step


def lift_fence(step: Step) -> Report:
    """Make the source writable again. Safe to run again.

    Services that run already are stopped: a connection that read the fenced file takes it for read-only. Where another file
    lies in the place of the database, the application would start on that: a person has to move the database back.
    """
    stop_again(step)
    source_file.require_same(step)
    fence.lift(step.source)
    return Report(f"{step.source.name} is writable again")


def start_services(step: Step) -> Report:
    """Start every service on SQLite; the downtime ends when the application is healthy. Safe to run again.

    A service that runs already was not started by this step, for instance because its host was restarted: it may hold the
    configuration from before this way back. So it is stopped, and started anew; but not where the step has passed just
    before: Airflow takes a try for dead whose heart-beats come late, and lets the next one follow.
    """
    stopped = [] if _has_just_passed(step) else stop_again(step)
    results = services.start(step.plan.services, step.remote)
    again = f"; {', '.join(stopped)} had started by themselves and were started anew" if stopped else ""
    return Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}{again}")


def _has_just_passed(step: Step) -> bool:
    """Return True when this step has passed in this boot, and nothing but a further try of it was recorded since."""
    own = {"event": "step.begin", "step": step.name}
    before = [event for event in step.evidence.events() if not own.items() <= event.items()]
    passed = {"event": "step.end", "step": step.name, "outcome": "passed", "boot": steady.boot()}
    return bool(before) and passed.items() <= before[-1].items()


def check_health(step: Step) -> Report:
    """Check that the application runs on SQLite and shows the rows of its file, and that its user can write there."""
    checks: list[Check] = []
    if step.plan.smoke_tests is not None:
        checks = requests.check_source_side(step.plan.smoke_tests, _counts(step))
    checks.append(writable.check_writable(step.source, source_file.owner_before(step)))
    result = Report(f"{len(checks)} checks from outside", {}, checks)
    if result.outcome == "passed":
        step.evidence.append("services.started", on="source")
    return result


def _counts(step: Step) -> dict[str, int]:
    """Return table → rows that the application must show; empty where there is no backup.

    Tables that may grow have at least the rows of the restored file. The others are counted now: people may have worked
    with the application since it was started.
    """
    smoke = step.plan.smoke_tests
    if smoke is None or step.evidence.last("backup") is None:
        return {}
    found = step.evidence.last(incident.SOURCE_FOUND) or {}
    counts = {**step.manifest.counts, **(found.get("counts") or {})}
    still = [test.table for test in smoke.counts if not test.growing and test.table in counts]
    with (
        files.scratch("counts") as scratch,
        cloning.live_schema(step.source, scratch, others=step.plan.source_other_names) as connection,
    ):
        return {**counts, **schema.counts(connection, still)}
