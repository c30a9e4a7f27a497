"""The commands ``stack``: a local Airflow that keeps running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.status import print_states
from include.cutover.places import ROOT, plans_folder
from include.cutover.stack.local import Stack
from include.cutover.stack.settings import StackSettings

FOLDER = ROOT / "var" / "stack"

Port = Annotated[int | None, typer.Option(help="Port of Airflow's interface; a free one when left out.", min=1, max=65535)]
Folder = Annotated[Path, typer.Option(help="Folder of the local Airflow's files.")]

app = typer.Typer(help="A local Airflow that keeps running.", no_args_is_help=True)
console = Console(highlight=False)


@app.command()
def up(port: Port = None, folder: Folder = FOLDER) -> None:
    """Start a local Airflow and leave it running. Its connections come from AIRFLOW_CONN_… in the environment.

    After a crash of the host, or of a part, it starts what does not run. It prints the state of each plan, as ``status``.

    Exit status: 0 it runs; 2 it could not be started.
    """
    stack = Stack(folder, StackSettings(port=port))
    if stack.complete:
        console.print(f"A local Airflow runs already at {stack.url}")
    else:
        stack.start([f"cutover_{file.stem}" for file in sorted(plans_folder().glob("*.yaml"))])
        _print_logins(stack)
    print_states()


@app.command()
def down(folder: Folder = FOLDER) -> None:
    """Stop the local Airflow: only the processes that were started for it.

    Exit status: 0 it is stopped, or did not run.
    """
    ended = Stack(folder).stop()
    console.print(f"ended: {', '.join(ended)}" if ended else "no local Airflow runs there")


@app.command()
def status(folder: Folder = FOLDER) -> None:
    """Show the processes, address and log-ins of the local Airflow. The command ``status`` shows the state of the plans.

    Exit status: 0 all of it runs; 1 it does not run, or not all of it.
    """
    stack = Stack(folder)
    leaders = stack.roster.leaders()
    if not stack.running:
        console.print("no local Airflow runs there")
        raise typer.Exit(1)
    for leader in leaders:
        console.print(f"{leader.name:16}{f'pid {leader.pid}' if leader.alive else 'ended'}")
    _print_logins(stack)
    raise typer.Exit(0 if stack.complete else 1)


def _print_logins(stack: Stack) -> None:
    console.print(f"Airflow is at {stack.url}")
    for user, password in stack.logins.items():
        console.print(f"  {user} / {escape(password)}")
