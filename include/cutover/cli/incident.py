"""The commands ``incident``: shows and closes the incident of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.options import AsJson, PlanName, from_options
from include.cutover.cli.output import print_json
from include.cutover.masking import one_line
from include.cutover.runs import incident
from include.cutover.steps import incidents

CLOSED, OPEN = 0, 1

console = Console(highlight=False)
app = typer.Typer(
    help="The incident of a run that did not end live; a new cutover can open only after it is closed.", no_args_is_help=True
)

OfRun = Annotated[
    str, typer.Option("--run", help="Run id of the cutover; when left out, the open incident, or else the newest.")
]


@app.command()
def show(plan: PlanName, run: OfRun = "", as_json: AsJson = False) -> None:
    """Show the state of an incident and the material kept for the investigation.

    Exit status: 0 it is closed, or there is none; 1 it is open; 2 it cannot be read.
    """
    if not run and not incident.incidents(plan):
        console.print(f"no cutover of {escape(plan)} has left an incident")
        return
    found = incident.find(plan, run)
    kept = incident.kept(found.evidence)
    if as_json:
        print_json(
            {"run_id": found.run_id, "outcome": found.outcome, "at": found.at, "why": found.why, "closed": found.closed,
             "kept": [{"what": item.what, "where": item.where} for item in kept]}
        )  # fmt: skip
    else:
        console.print(
            f"{escape(found.run_id)} ended as {found.outcome} at {found.at}: {escape(one_line(found.why))}", soft_wrap=True
        )
        _print_closing(found)
        for item in kept:
            console.print(f"  {escape(one_line(item.what))}: {escape(one_line(item.where))}", soft_wrap=True)
    raise typer.Exit(CLOSED if found.closed is not None else OPEN)


@dataclass(frozen=True)
class CloseOptions:
    """Options of the command ``incident close``."""

    plan: PlanName
    by: Annotated[str, typer.Option(help="User name of the lead or a deputy.")]
    cause: Annotated[str, typer.Option(help="The cause, and why the earlier checks did not find it.")]
    fix: Annotated[str, typer.Option(help="The correction: what, where and by whom.")]
    reference: Annotated[str, typer.Option(help="Reference to further information: a ticket, a post-mortem.")]
    run: OfRun = ""


@app.command()
@from_options(CloseOptions)
def close(options: CloseOptions) -> None:
    """Close the incident of a run, so that a new cutover can open. Changes only the evidence of that run.

    Exit status: 0 it is closed; 2 it is not closed.
    """
    found = incidents.close(
        options.plan, options.run, by=options.by, cause=options.cause, fix=options.fix, reference=options.reference
    )
    console.print(f"the incident of {escape(found.run_id)} is closed")
    _print_closing(found)


def _print_closing(found: incident.Incident) -> None:
    closed = found.closed
    if closed is None:
        todo = "is open" if found.complete else "is open, and the way back is not complete"
        console.print(f"  the incident {todo}")
        return
    console.print(f"  closed by {escape(one_line(closed['by']))} at {closed['time']}", soft_wrap=True)
    for name in ("cause", "fix", "reference"):
        console.print(f"  {name}: {escape(one_line(closed[name]))}", soft_wrap=True)
