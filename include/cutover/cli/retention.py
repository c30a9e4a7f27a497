"""The command ``retention``: retention without Airflow."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.aftercare.retention import due
from include.cutover.aftercare.retention.record import evidence_of
from include.cutover.cli.break_glass import EndsOfEvidence
from include.cutover.cli.options import PlanName, TargetOrEnvironment
from include.cutover.masking import one_line
from include.cutover.plan.file import load_plan
from include.cutover.target import session as target_session

console = Console(highlight=False)


def command(
    plan: PlanName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print the actions that are due.")] = False,
    target: TargetOrEnvironment = None,
) -> None:
    """Archive and remove old backups, and drop schemas that rolled-back runs left.

    Exit status: 0 done; 1 something that is due was not done and needs attention; 2 it could not run.
    """
    found = load_plan(plan)
    ends = EndsOfEvidence(evidence_of(plan), target=None if target is None else target_session.libpq_url(target))
    deeds = [
        deed
        for what in ("archive", "remove", "drop")
        for deed in due.carry_out(
            found, what, conninfo=lambda: ends.target_conninfo(found, "cutover-retention"), dry_run=dry_run
        )
    ]
    for deed in deeds:
        console.print(f"{'would: ' if dry_run and deed.done else ''}{escape(one_line(str(deed)))}", soft_wrap=True)
    if not deeds:
        console.print("nothing is due")
    raise typer.Exit(1 if any(deed.failed for deed in deeds) else 0)
