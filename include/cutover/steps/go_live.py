"""Goes live: switches the configuration, starts the services on PostgreSQL and tests the application from outside."""

from __future__ import annotations

from include.cutover.aftercare import baseline
from include.cutover.aftercare.marker import MARKED, mark
from include.cutover.application import configuration, requests, services
from include.cutover.checks import Check
from include.cutover.errors import Refused
from include.cutover.source import fence
from include.cutover.steps.configuration import fill, kept_configuration
from include.cutover.steps.quiesce import stop_again
from include.cutover.steps.step import Report, Step
from include.cutover.target import fence as target_fence


def mark_target(step: Step) -> Report:
    """Prove the source unchanged since the backup, and record how far the target's rows go. Safe to run again.

    Raises:
        Refused: When the source is not as this run fenced it.
    """
    state = fence.status(step.source)
    if not state.raised or not state.intact or state.run_id != step.run_id:
        raise Refused(
            "the source is not as this run fenced it; it may have been written to after the backup",
            where=str(step.source),
            expected=f"the fence of {step.run_id}, intact",
            found=state.detail,
            do="The cutover rolls back. Find out who wrote to it, then start a new run.",
        )
    marker = mark(step.target, step.plan.target_schema, step.run_id, step.guard, step.expected_rows)
    step.evidence.append(MARKED, **marker.as_dict())
    return Report(f"the source is as it was fenced; the target holds {sum(marker.rows.values()):,} rows")


def switch_configuration(step: Step) -> Report:
    """Prove the source unchanged since the backup, let the application into the target, switch its configuration.

    Safe to run again: the old configuration is kept once, so that a second try does not keep the new one. How far the
    target's rows go is recorded first, which sets later rows apart from copied ones. A file is replaced atomically. A
    service that runs, for instance because its host was restarted, has the old configuration: it is stopped.
    """
    mark_target(step)
    settings = step.plan.configuration
    if settings is None:
        return Report("the plan switches no configuration")
    role = step.ends.application_role(step.plan)
    if role is not None:
        target_fence.let_in(step.target, step.plan.target_schema, role, step.plan.target_fence, step.guard)
        step.evidence.append("target.fence", raised=False, role=role, way=step.plan.target_fence)
    values = fill(settings.live, application_url=step.ends.application_url(step.plan), source_path=str(step.source))
    configuration.switch(settings, values, keep_as=kept_configuration(step, settings), remote=step.remote)
    up = stop_again(step)
    stopped = f"; {', '.join(up)} had started since the stop and were stopped again" if up else ""
    return Report(f"{configuration.name(settings)} now sets {', '.join(sorted(values))}{stopped}")


def start_services(step: Step) -> Report:
    """Start every service on PostgreSQL and wait until the application is healthy; the downtime ends. Safe to run again.

    The state of logs and statistics before is recorded for the aftercare.
    """
    baseline.keep(step.evidence, step.plan, lambda: step.target, step.remote)
    results = services.start(step.plan.services, step.remote)
    checks: list[Check] = []
    if step.plan.smoke_tests is not None:
        checks.append(requests.wait_healthy(step.plan.smoke_tests, "target"))
    report = Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}", {}, checks)
    if report.outcome == "passed":
        step.evidence.append("services.started", on="target")
    return report


def smoke_test_application(step: Step) -> Report:
    """Test the application from outside: health, the counts it shows, a row written and read back. Safe to run again."""
    if step.plan.smoke_tests is None:
        return Report("the plan has no application to test")
    checks = requests.smoke_test(step.plan.smoke_tests, step.target, step.plan.target_schema, step.expected_rows)
    return Report(f"{len(checks)} checks from outside", {}, checks)
