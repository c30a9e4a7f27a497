"""The command ``rollback``: the rollback without Airflow."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli import break_glass
from include.cutover.cli.options import By, MovedSource, PlanName, TargetOrEnvironment, from_options, sentence
from include.cutover.cli.output import MARKS
from include.cutover.evidence.record import Evidence
from include.cutover.masking import one_line
from include.cutover.steps.step import Report
from include.cutover.target import session as target_session

console = Console(highlight=False)


@dataclass(frozen=True)
class RollbackOptions:
    """Options of the command ``rollback``."""

    plan: PlanName
    evidence: Annotated[Path, typer.Option(readable=False, help="Evidence folder of the run to roll back.")]
    reason: Annotated[str, typer.Option(help="Reason of the rollback, for the incident document.")]
    source: MovedSource = None
    target: TargetOrEnvironment = None
    give_up_rows: Annotated[
        int | None,
        typer.Option(min=0, help="Replace a SQLite file that holds this number of rows beyond the backup; it is kept."),
    ] = None
    by: By = ""


@from_options(RollbackOptions)
def command(options: RollbackOptions) -> None:
    """Roll back a run without Airflow: bring the application back to SQLite. Run it again after a failure.

    Exit status: 0 the application is healthy on SQLite; 2 it is not: correct the cause and run it again.
    """
    reason = sentence(options.reason)
    logging.basicConfig(level=logging.WARNING, format="  %(message)s", stream=sys.stderr)
    report = break_glass.rollback(
        options.plan,
        options.evidence,
        reason=reason,
        by=options.by or break_glass.login(),
        source=options.source,
        target=None if options.target is None else target_session.libpq_url(options.target),
        give_up_rows=options.give_up_rows,
        on_step=_print_step,
    )
    console.print(f"[bold]{escape(one_line(report.summary))}[/]")
    notices = [
        item for item in Evidence.of(options.plan, options.evidence.resolve().name).events() if item["event"] == "notice"
    ]
    unsent = [item for item in notices if item["notice"] in ("rollback", "cancelled")]
    if unsent:
        console.print("No notice was sent; send this:", escape(unsent[-1]["text"]), soft_wrap=True)


def _print_step(name: str, report: Report | None) -> None:
    if report is not None:
        console.print(f"{MARKS[report.outcome]} {name:32}{escape(one_line(report.summary))}", soft_wrap=True)
