"""The commands ``evidence``: verifies the evidence of a run, and closes a run that was rolled back by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.checks import worst
from include.cutover.cli import break_glass, evidence_check
from include.cutover.cli.options import AsJson, By, MovedSource, from_options, sentence
from include.cutover.cli.output import STATUS, print_json, print_marked

console = Console(highlight=False)
app = typer.Typer(help="The evidence of a run.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(readable=False, help="Evidence folder of the run.")]


@app.command()
def check(folder: Folder, as_json: AsJson = False) -> None:
    """Verify the chain of events, the recorded files and the backups.

    Exit status: 0 all are intact; 1 something is damaged; 2 something could not be checked.
    """
    checks = evidence_check.check(folder)
    end = evidence_check.head(folder)
    if as_json:
        print_json({"folder": folder, "head": end, "checks": [item.as_dict() for item in checks]})
    else:
        print_marked(checks, console)
        console.print(f"Events and SHA-256 of the last: {end}", soft_wrap=True)
    raise typer.Exit(STATUS[worst(checks)])


@dataclass(frozen=True)
class CloseOptions:
    """Options of the command ``evidence close``."""

    folder: Folder
    reason: Annotated[str, typer.Option(help="What was done by hand, for the evidence.")]
    source: MovedSource = None
    by: By = ""


@app.command()
@from_options(CloseOptions)
def close(options: CloseOptions) -> None:
    """Close a run whose application was restored on SQLite by hand. Changes only evidence and leases.

    Exit status: 0 the run is closed; 2 it is not closed.
    """
    run_id = break_glass.close_by_hand(
        options.folder,
        reason=sentence(options.reason),
        by=options.by or break_glass.login(),
        source=options.source,
    )
    console.print(f"{escape(run_id)} is closed as rolled back by hand")
