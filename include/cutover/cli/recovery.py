"""What is typed when something is wrong: the fence, the evidence, the incident, and the rollback without Airflow."""

from __future__ import annotations

import getpass
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.checks import Check, worst
from include.cutover.cli import break_glass, evidence_check
from include.cutover.errors import Refused
from include.cutover.evidence.record import Evidence
from include.cutover.runs import incident
from include.cutover.source import fence
from include.cutover.steps import incidents
from include.cutover.steps.step import Report
from include.cutover.target import session as target_session

console = Console(highlight=False)
fence_app = typer.Typer(help="The fence around an application's SQLite file.", no_args_is_help=True)
evidence_app = typer.Typer(help="The evidence of a run.", no_args_is_help=True)
incident_app = typer.Typer(
    help="What a run left that did not end live; no new one opens before it is closed.", no_args_is_help=True
)

INTACT, NO_FENCE, BROKEN = 0, 1, 3

_MARKS = {"passed": "[green]✓[/]", "failed": "[red]✗[/]", "unknown": "[yellow]?[/]"}
SourceFile = Annotated[Path, typer.Option(help="The SQLite file of the application.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def rollback(
    plan: Annotated[str, typer.Option("--plan", help="Name of the plan.")],
    evidence: Annotated[Path, typer.Option(help="The evidence folder of the run to roll back.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the incident document.")],
    source: Annotated[
        Path | None, typer.Option(help="The SQLite file, where it is elsewhere than the evidence says.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; AIRFLOW_CONN_… of the environment when left out."),
    ] = None,
    by: Annotated[str, typer.Option(help="Who asks; your log-in when left out.")] = "",
) -> None:
    """Break glass: bring the application back to SQLite without Airflow. Status 0 only when it is healthy there."""
    said = _sentence(reason)
    logging.basicConfig(level=logging.WARNING, format="  %(message)s", stream=sys.stderr)

    def tell(name: str, report: Report | None) -> None:
        if report is not None:
            console.print(f"{_MARKS[report.outcome]} {name:32}{escape(report.summary)}", soft_wrap=True)

    report = break_glass.rollback(
        plan,
        evidence,
        reason=said,
        by=by or login(),
        source=source,
        target=None if target is None else target_session.libpq_url(target),
        tell=tell,
    )
    console.print(f"[bold]{escape(report.summary)}[/]")
    notices = [item for item in Evidence(evidence).events() if item["event"] == "notice"]
    told = [item for item in notices if item["notice"] in ("rollback", "cancelled")]
    if told:
        console.print("Nobody was told; send this:", escape(told[-1]["text"]), soft_wrap=True)


def login() -> str:
    """Who sits here: behind sudo, the one who called it."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


@fence_app.command()
def status(source: SourceFile, as_json: AsJson = False) -> None:
    """Say whether the file is fenced, by which run, and whether it is intact. Status 0 intact, 1 no fence, 3 broken."""
    state = fence.status(source)
    if as_json:
        _print_json(
            {"file": state.source, "raised": state.raised, "intact": state.intact, "run_id": state.run_id,
             "since": state.time, "note": state.note, "findings": list(state.findings)}
        )  # fmt: skip
    else:
        console.print(f"{escape(str(state.source))}: {escape(state.detail)}", soft_wrap=True)
    if state.raised:
        raise typer.Exit(INTACT if state.intact else BROKEN)
    raise typer.Exit(BROKEN if state.findings else NO_FENCE)


@fence_app.command()
def lift(
    source: SourceFile,
    run: Annotated[str, typer.Option(help="Run id of the fence, as 'fence status' says it: so that no other is lifted.")],
) -> None:
    """Make the file writable again. Only when its run is given up: the application then writes where nobody copies it."""
    before = fence.status(source)
    state = fence.lift(source, run_id=run)
    if not before.raised:
        console.print(f"{escape(str(state.source))}: there was no fence", soft_wrap=True)
        return
    console.print(f"{escape(str(state.source))}: the fence of {escape(run)} is lifted", soft_wrap=True)
    if not before.intact:
        console.print(f"It was not intact: {escape('; '.join(before.findings))}", soft_wrap=True)


@evidence_app.command()
def check(folder: Annotated[Path, typer.Argument(help="The evidence folder of one run.")], as_json: AsJson = False) -> None:
    """Verify the chain of events, the recorded files and the backups. Status 0 whole, 1 damaged, 2 could not check."""
    checks = evidence_check.check(folder)
    end = evidence_check.head(folder)
    if as_json:
        _print_json({"folder": folder, "head": end, "checks": [item.as_dict() for item in checks]})
    else:
        _tell(checks)
        console.print(f"Events and SHA-256 of the last: {end}", soft_wrap=True)
    raise typer.Exit({"passed": 0, "failed": 1, "unknown": 2}[worst(checks)])


@evidence_app.command()
def close(
    folder: Annotated[Path, typer.Argument(help="The evidence folder of the run.")],
    reason: Annotated[str, typer.Option(help="What was done by hand; it stands in the evidence.")],
    source: Annotated[
        Path | None, typer.Option(help="The SQLite file, where it is elsewhere than the evidence says.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so; your log-in when left out.")] = "",
) -> None:
    """Close a run whose application was brought back to SQLite by hand. Changes nothing but evidence and leases."""
    run_id = break_glass.close_by_hand(folder, reason=_sentence(reason), by=by or login(), source=source)
    console.print(f"{escape(run_id)} is closed as rolled back by hand")


PlanName = Annotated[str, typer.Option("--plan", help="Name of the plan.")]
OfRun = Annotated[
    str, typer.Option("--run", help="Run id of the cutover; the open incident, else the newest, when left out.")
]


@incident_app.command()
def show(plan: PlanName, run: OfRun = "", as_json: AsJson = False) -> None:
    """Say how it stands with an incident and what was kept for the inquiry. Status 0 closed or none, 1 open."""
    if not run and not incident.incidents(plan):
        console.print(f"no cutover of {escape(plan)} has left an incident")
        return
    found = incident.find(plan, run)
    kept = incident.kept(found.evidence)
    if as_json:
        _print_json(
            {"run_id": found.run_id, "outcome": found.outcome, "at": found.at, "why": found.why, "closed": found.closed,
             "kept": [{"what": item.what, "where": item.where} for item in kept]}
        )  # fmt: skip
    else:
        console.print(f"{escape(found.run_id)} ended as {found.outcome} at {found.at}: {escape(found.why)}", soft_wrap=True)
        _tell_closing(found)
        for item in kept:
            console.print(f"  {escape(item.what)}: {escape(item.where)}", soft_wrap=True)
    raise typer.Exit(0 if found.closed is not None else 1)


@incident_app.command(name="close")
def close_incident(
    plan: PlanName,
    by: Annotated[str, typer.Option(help="User name of the lead or a deputy.")],
    cause: Annotated[str, typer.Option(help="What went wrong, and why the checks before did not find it.")],
    fix: Annotated[str, typer.Option(help="What was corrected, where and by whom.")],
    reference: Annotated[str, typer.Option(help="Where the rest can be read: a ticket, a post-mortem.")],
    run: OfRun = "",
) -> None:
    """Close the incident of a run, so that a new cutover may open. Changes nothing but the evidence of that run."""
    found = incidents.close(plan, run, by=by, cause=cause, fix=fix, reference=reference)
    console.print(f"the incident of {escape(found.run_id)} is closed")
    _tell_closing(found)


def _tell_closing(found: incident.Incident) -> None:
    closed = found.closed
    if closed is None:
        todo = "is open" if found.complete else "is open, and the way back is not complete"
        console.print(f"  the incident {todo}")
        return
    console.print(f"  closed by {escape(closed['by'])} at {closed['time']}", soft_wrap=True)
    for name in ("cause", "fix", "reference"):
        console.print(f"  {name}: {escape(closed[name])}", soft_wrap=True)


def _sentence(reason: str) -> str:
    if len(reason.strip()) < 3:
        raise Refused("the reason is too short", where="--reason", expected="a ticket or a sentence")
    return reason.strip()


def _tell(checks: list[Check]) -> None:
    for item in checks:
        console.print(f"{_MARKS[item.outcome]} {escape(item.title)}", soft_wrap=True)
        if item.outcome != "passed":
            console.print(f"    expected {escape(item.expected)}, found {escape(item.found)}", soft_wrap=True)
            console.print(f"    {escape(item.where)} {escape(item.do)}", soft_wrap=True)


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
