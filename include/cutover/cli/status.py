"""The command ``status``: the state of each plan, from the evidence, and what to do next."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.options import AsJson
from include.cutover.cli.output import print_json
from include.cutover.masking import mask, one_line
from include.cutover.places import plans_folder
from include.cutover.report.plan_state import PlanState, state_of_plan

console = Console(highlight=False)

OnePlan = Annotated[str, typer.Option("--plan", help="Name of the plan; every plan when left out.")]


def command(plan: OnePlan = "", as_json: AsJson = False) -> None:
    """Print the state of the newest run: its step, where the application is, what to do. Reads only the evidence.

    Exit status: 0 no run is in flight; 1 a run is in flight, or its way back is not complete.
    """
    states = [state_of_plan(name) for name in ([plan] if plan else _plans())]
    if as_json:
        print_json({"plans": [asdict(state) for state in states]})
    else:
        for state in states:
            print_state(state, console)
    raise typer.Exit(int(any(state.in_flight for state in states)))


def print_states() -> None:
    """Print the state of every plan."""
    for name in _plans():
        print_state(state_of_plan(name), console)


def print_state(state: PlanState, console: Console) -> None:
    """Print the state of a plan.

    Args:
        state: The state.
        console: The terminal.
    """
    console.print(f"[bold]{escape(state.plan)}[/]")
    lines = [("run", state.run), ("step", state.at), ("application", state.application)]
    lines += [("next" if number == 0 else "", text) for number, text in enumerate(state.do)]
    for title, text in lines:
        console.print(f"  {title:13}{escape(one_line(mask(text)))}", soft_wrap=True)


def _plans() -> list[str]:
    return [file.stem for file in sorted(plans_folder().glob("*.yaml"))]
