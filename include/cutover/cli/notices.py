"""The command ``notices``: the notices of a run, as people will read them, before it starts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.options import PlanName
from include.cutover.masking import visible
from include.cutover.people import notice_texts
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import rehearsals
from include.cutover.runs import window_start as window_starts
from include.cutover.runs.clock import Clock

console = Console(highlight=False)

WHEN = {
    "start": "when the run opens, or is scheduled",
    "completion": "when it is live",
    "rollback": "when it was rolled back",
    "cancelled": "when it does not take place",
}
REASON = "(the reason)"
ANY_YEARS = 100  # a preview starts nothing


def command(
    plan: PlanName,
    window_start: Annotated[
        str, typer.Option(help="Start of the window, ISO 8601, with its offset; now when left out.")
    ] = "",
) -> None:
    """Show the notices of a run before it starts: when each is sent, to whom, and its text.

    Exit status: 0 shown; 2 the plan has faults, or a text cannot be written.
    """
    found = load_plan(plan)
    start = window_starts.read(window_start, found, "--window-start", years=ANY_YEARS)
    if start.note:
        console.print(escape(start.note), soft_wrap=True)
    _print_notices(found, start.moment)


def _print_notices(plan: Plan, start: datetime) -> None:
    clock = Clock.of(plan.window, start, rehearsals.measured(plan))
    console.print(f"[bold]{escape(plan.application)}[/]: window {_when(clock.start)} to {_when(clock.end)}, freeze from "
                  f"{_when(clock.freeze)}, deadline {_when(clock.deadline)}", soft_wrap=True)  # fmt: skip
    if plan.channels.release == "communicator":
        held = f"Each is held for {plan.people.communicator.name}, for {plan.channels.release_minutes:g} minutes at most."
        console.print(escape(held), soft_wrap=True)
    due = {
        item.notice: item.due for item in notice_texts.ahead(plan, clock, run_id="run", now=datetime.min.replace(tzinfo=UTC))
    }
    for name in ("start", *due, "completion", "rollback", "cancelled"):
        message = notice_texts.message(plan, name, clock, run_id="(the run's id)", reason=REASON)
        moment = due.get(name)
        when = WHEN.get(name) or f"{_when(moment) if moment else ''}, while the run is open"
        console.print(
            f"\n[bold]{name}[/] · {escape(when)} · to {escape(_receivers(plan, lead=message.lead))}", soft_wrap=True
        )
        console.print(f"  {escape(visible(message.subject))}", soft_wrap=True)
        for line in message.text.splitlines():
            console.print(f"  {escape(visible(line))}", soft_wrap=True)


def _receivers(plan: Plan, *, lead: bool) -> str:
    found = []
    if plan.connections.slack is not None:
        found.append(f"slack ({plan.channels.slack_channel})")
    if plan.connections.mail is not None:
        found.append(f"mail ({', '.join(plan.channels.mail_to)})")
        if lead and plan.people.lead.email not in plan.channels.mail_to:
            found.append(f"lead ({plan.people.lead.email})")
    return ", ".join(found) or "no receiver: the plan has no channel"


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
