"""Going live: the configuration switched, the services started on PostgreSQL and tried from outside."""

from __future__ import annotations

from pathlib import Path

from include.cutover.aftercare import baseline
from include.cutover.aftercare.marker import MARKED, mark
from include.cutover.application import configuration, requests, services
from include.cutover.checks import Check
from include.cutover.errors import Refused
from include.cutover.source import fence
from include.cutover.steps.step import Body, Report, Step, Terms
from include.cutover.target import fence as target_fence


def kept_configuration(step: Step, settings: configuration.Settings) -> Path:
    """Where the configuration from before the switch is kept."""
    return configuration.kept_as(settings, step.evidence.folder.name, step.plan.backup.directory)


def mark_target(step: Step) -> Report:
    """Prove the source unchanged since the backup, and keep where the target stands. Safe to run again.

    Raises:
        Refused: When the source is not as this run fenced it.
    """
    state = fence.status(step.source)
    if not state.raised or not state.intact or state.run_id != step.run_id:
        raise Refused(
            "the source is not as this run fenced it; somebody may have written to it after the backup",
            where=str(step.source),
            expected=f"the fence of {step.run_id}, intact",
            found=state.detail,
            do="The cutover rolls back; find out who wrote, then start again.",
        )
    marker = mark(step.target, step.plan.target_schema, step.run_id, step.guard, step.expected_rows)
    step.evidence.append(MARKED, **marker.as_dict())
    return Report(f"the source is as it was fenced; the target holds {sum(marker.rows.values()):,} rows")


def switch_configuration(step: Step) -> Report:
    """Prove the source unchanged since the backup, let the application into the target, point its configuration there.

    What is written from here on can be told from what was copied: where the target stands is kept first. The old
    configuration is kept once, so that a second try does not keep the new one. A file is replaced in one step.
    A service that runs, because its host came up again for instance, has the old configuration: it is stopped.
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
    up = [name for name, is_up in services.status(step.plan.services, step.remote).items() if is_up]
    services.stop([service for service in step.plan.services if service.name in up], step.remote)
    stopped = f"; {', '.join(up)} had been started since the stop, and rest again" if up else ""
    return Report(f"{configuration.name(settings)} now sets {', '.join(sorted(values))}{stopped}")


def fill(values: dict[str, str], **known: str) -> dict[str, str]:
    """The plan's values with ``{application_url}`` and ``{source_path}`` put in."""
    filled = {}
    for key, value in values.items():
        for name, content in known.items():
            value = value.replace("{" + name + "}", content)
        filled[key] = value
    return filled


def start_services(step: Step) -> Report:
    """Start every service on PostgreSQL and wait until the application says so; the downtime ends.

    Where logs and statistics stand before is recorded for the aftercare.
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
    """Ask the application from outside: health, the numbers it shows, a row written and read back."""
    if step.plan.smoke_tests is None:
        return Report("the plan has no application to ask")
    checks = requests.smoke_test(step.plan.smoke_tests, step.target, step.plan.target_schema, step.expected_rows)
    return Report(f"{len(checks)} questions asked from outside", {}, checks)


def going_live() -> list[tuple[str, Body, Terms]]:
    """The steps that go live, in their order: name, body, and when each may run."""
    steps = (
        ("switch_configuration", switch_configuration),
        ("start_services", start_services),
        ("smoke_test_application", smoke_test_application),
    )
    names = [name for name, _ in steps]
    course = ("go_live", "switching")
    return [
        (
            name,
            body,
            Terms(gate="approve", course=course, in_turn=tuple(names[:number]), in_time=name != "smoke_test_application"),
        )
        for number, (name, body) in enumerate(steps)
    ]
