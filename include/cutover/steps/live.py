"""Going live: the configuration switched, the services started on PostgreSQL and tried from outside."""

from __future__ import annotations

from pathlib import Path

from include.cutover import application, configuration, fence, services, target
from include.cutover.checks import Check
from include.cutover.errors import Refused
from include.cutover.plan import Configuration
from include.cutover.steps.step import Body, Report, Step, Terms


def kept_configuration(step: Step, settings: Configuration) -> Path:
    """Where the configuration from before the switch is kept: beside the file, so that it is as private as the file."""
    return settings.file.with_name(f"{settings.file.name}.before-{step.evidence.folder.name}")


def switch_configuration(step: Step) -> Report:
    """Prove the source unchanged since the backup, let the application in, point its configuration at the target.

    Atomic; the old file is kept once, so that a second try does not keep the new one.
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
    settings = step.plan.configuration
    if settings is None:
        return Report("the plan switches no configuration")
    role = step.ends.application_role(step.plan)
    if role is not None:
        target.grant_application(step.target, step.plan.target_schema, role, step.guard)
    values = fill(settings.live, application_url=step.ends.application_url(step.plan), source_path=str(step.source))
    configuration.switch(settings.file, values, keep_as=kept_configuration(step, settings))
    return Report(f"{settings.file.name} now sets {', '.join(sorted(values))}")


def fill(values: dict[str, str], **known: str) -> dict[str, str]:
    """The plan's values with ``{application_url}`` and ``{source_path}`` put in."""
    filled = {}
    for key, value in values.items():
        for name, content in known.items():
            value = value.replace("{" + name + "}", content)
        filled[key] = value
    return filled


def start_services(step: Step) -> Report:
    """Start every service on PostgreSQL and wait until the application says so; the downtime ends."""
    results = services.start(step.plan.services)
    checks: list[Check] = []
    if step.plan.smoke_tests is not None:
        checks.append(application.wait_healthy(step.plan.smoke_tests, "target"))
    report = Report(f"started: {', '.join(result.name for result in results) or 'the plan has no services'}", {}, checks)
    if report.outcome == "passed":
        step.evidence.append("services.started", on="target")
    return report


def smoke_test_application(step: Step) -> Report:
    """Ask the application from outside: health, the numbers it shows, a row written and read back."""
    if step.plan.smoke_tests is None:
        return Report("the plan has no application to ask")
    checks = application.smoke_test(step.plan.smoke_tests, step.target, step.plan.target_schema, step.expected_rows)
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
        (name, body, Terms(gate="approve", course=course, in_turn=tuple(names[:number])))
        for number, (name, body) in enumerate(steps)
    ]
