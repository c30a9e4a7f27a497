"""The command ``plan``: checks a plan file and shows its main settings."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from include.cutover.application import configuration
from include.cutover.cli.options import PlanName
from include.cutover.plan.application import DotenvConfiguration
from include.cutover.plan.file import load_plan

console = Console(highlight=False)


def command(plan: PlanName) -> None:
    """Check a plan file and show its main settings.

    Exit status: 0 the plan is valid; 2 it is not, with a line for each fault.
    """
    found = load_plan(plan)
    streams = sum(table.streams for table in found.tables.values())
    lines = {
        "application": found.application,
        "connections": ", ".join(name for name in found.connections.model_dump().values() if name),
        "target schema": f"{found.target_schema}; the application is kept out of it by {found.target_fence}",
        "tables": f"{len(found.tables)}, copied by {streams} tasks",
        "secret columns": str(sum(len(table.secret) for table in found.tables.values())),
        "services": ", ".join(service.name for service in found.services) or "none",
        "configuration": _place(found.configuration),
        "health": found.smoke_tests.base_url + found.smoke_tests.health.path if found.smoke_tests else "not checked",
        "backup": f"{found.backup.directory}; second copy {found.backup.second_copy or 'none'}",
        "window": f"{found.window.minutes} minutes; a gate waits {found.gates.response_minutes:g} minutes",
        "may decide": ", ".join(f"{person.name} ({person.user})" for person in found.people.deciders),
    }
    console.print(f"[bold]{escape(found.name)}[/]: no faults")
    for name, value in lines.items():
        console.print(f"  {name:16}{escape(value)}", soft_wrap=True)


def _place(settings: configuration.Settings | None) -> str:
    if settings is None:
        return "none"
    return str(settings.file) if isinstance(settings, DotenvConfiguration) else configuration.name(settings)
