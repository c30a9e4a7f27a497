"""Goes live: switches the configuration, starts the services on PostgreSQL and tests the application from outside."""

from __future__ import annotations

from dataclasses import replace

from include.cutover.aftercare import baseline
from include.cutover.application import configuration, requests, services
from include.cutover.checks import Check
from include.cutover.steps import source_file
from include.cutover.steps.configuration import fill, kept_configuration
from include.cutover.steps.let_in import let_in
from include.cutover.steps.quiesce import stop_again
from include.cutover.steps.step import Report, Step


def mark_target(step: Step) -> Report:
    """Prove source and target unchanged, and record how far the target's rows go, as a cutover does. Safe to run again.

    For rehearsals: nobody is let in.

    Raises:
        Refused: When the source is not as this run fenced it.
    """
    return _open_target(step, None)


def _open_target(step: Step, role: str | None) -> Report:
    source_file.require_fenced(step, content=True)
    report = let_in(step, role)
    return replace(report, summary=f"the source is as it was fenced; {report.summary}")


def switch_configuration(step: Step) -> Report:
    """Prove source and target unchanged, let the application into the target, switch its configuration.

    Safe to run again: the old configuration is kept once, so that a second try does not keep the new one. How far the
    target's rows go is recorded first, which sets later rows apart from copied ones. A file is replaced atomically. A
    service that runs, for instance because its host was restarted, has the old configuration: it is stopped. When the
    target changed since the proof, nothing is switched and the step fails.
    """
    settings = step.plan.configuration
    report = _open_target(step, step.ends.application_role(step.plan) if settings is not None else None)
    if report.outcome != "passed":
        return report
    if settings is None:
        return replace(report, summary=f"{report.summary}; the plan switches no configuration")
    values = fill(settings.live, application_url=step.ends.application_url(step.plan), source_path=str(step.source))
    configuration.switch(settings, values, keep_as=kept_configuration(step, settings), remote=step.remote)
    up = stop_again(step)
    stopped = f"; {', '.join(up)} had started since the stop and were stopped again" if up else ""
    return replace(
        report, summary=f"{report.summary}; {configuration.name(settings)} now sets {', '.join(sorted(values))}{stopped}"
    )


def start_services(step: Step) -> Report:
    """Start every service on PostgreSQL and wait until the application is healthy; the downtime ends. Safe to run again.

    The state of logs, statistics and the target's structure before is recorded for the aftercare.
    """
    role = step.ends.application_role(step.plan)
    baseline.keep(step.evidence, step.plan, lambda: step.target, step.remote, role)
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
