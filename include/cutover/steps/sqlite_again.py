"""Brings the application back on SQLite: the steps that release and rollback share.

They need the evidence and the plan only, and work with PostgreSQL down. Each verifies its outcome and can run again.
"""

from __future__ import annotations

from include.cutover import files
from include.cutover.application import requests, services
from include.cutover.checks import Check
from include.cutover.runs import incident
from include.cutover.source import cloning, fence, schema, writable
from include.cutover.steps import source_file
from include.cutover.steps.quiesce import stop_again
from include.cutover.steps.step import Report, Step

AT_REST = "services.at_rest"
"""Event: no service runs, and the configuration is that of SQLite."""


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
    configuration from before this way back. So it is stopped, and started anew; but not by a further try, which continues
    where the one before was killed.
    """
    stopped = []
    if not _continues(step):
        stopped = stop_again(step)
        step.evidence.append(AT_REST)
    results = services.start(step.plan.services, step.remote)
    again = f"; {', '.join(stopped)} had started by themselves and were started anew" if stopped else ""
    return Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}{again}")


def _continues(step: Step) -> bool:
    """Return True when a try of this step has seen all services at rest, and only tries of it were recorded since."""
    for event in reversed(step.evidence.events()):
        if event["event"] == AT_REST:
            return True
        if event["event"] not in ("step.begin", "step.end") or event["step"] != step.name:
            return False
    return False


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
