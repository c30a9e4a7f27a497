"""Brings the application back on SQLite: the steps that release and rollback share.

They need the evidence and the plan only, and work with PostgreSQL down. Each verifies its outcome and can run again.
"""

from __future__ import annotations

from include.cutover.application import requests, services
from include.cutover.checks import Check
from include.cutover.source import fence, writable
from include.cutover.steps.step import Report, Step


def lift_fence(step: Step) -> Report:
    """Make the source writable again. Safe to run again."""
    fence.lift(step.source)
    return Report(f"{step.source.name} is writable again")


def start_services(step: Step) -> Report:
    """Start every service on SQLite; the downtime ends when the application is healthy."""
    results = services.start(step.plan.services, step.remote)
    return Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}")


def check_health(step: Step) -> Report:
    """Check that the application runs on SQLite with the row counts of the backup, and that its user can write there."""
    checks: list[Check] = []
    if step.plan.smoke_tests is not None:
        counts = dict(step.manifest.counts) if step.evidence.last("backup") else {}
        checks = requests.check_source_side(step.plan.smoke_tests, counts)
    checks.append(writable.check_writable(step.source))
    result = Report(f"{len(checks)} checks from outside", {}, checks)
    if result.outcome == "passed":
        step.evidence.append("services.started", on="source")
    return result
