"""The commands ``fence``: the state of the fence around a SQLite file, and its removal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.options import AsJson, SourceFile
from include.cutover.cli.output import print_json
from include.cutover.source import fence

INTACT, NO_FENCE, BROKEN = 0, 1, 3

console = Console(highlight=False)
app = typer.Typer(help="The fence around an application's SQLite file.", no_args_is_help=True)


@app.command()
def status(source: SourceFile, as_json: AsJson = False) -> None:
    """Show whether the file is fenced, by which run, and whether the fence is intact.

    Exit status: 0 the fence is intact; 1 there is none; 2 the file cannot be read; 3 the fence is broken.
    """
    state = fence.status(source)
    if as_json:
        print_json(
            {"file": state.source, "raised": state.raised, "intact": state.intact, "run_id": state.run_id,
             "since": state.time, "note": state.note, "findings": list(state.findings)}
        )  # fmt: skip
    else:
        console.print(f"{escape(str(state.source))}: {escape(state.detail)}", soft_wrap=True)
    if state.raised:
        raise typer.Exit(INTACT if state.intact else BROKEN)
    raise typer.Exit(BROKEN if state.findings else NO_FENCE)


@app.command()
def lift(
    source: SourceFile,
    run: Annotated[str, typer.Option(help="Run id of the fence, as 'fence status' shows it; another fence is not lifted.")],
) -> None:
    """Make the file writable again. Use it only when the run is abandoned: nothing copies the rows written from then on.

    Exit status: 0 the fence is lifted, or there was none; 2 it is not lifted.
    """
    before = fence.status(source)
    state = fence.lift(source, run_id=run)
    if not before.raised:
        console.print(f"{escape(str(state.source))}: there was no fence", soft_wrap=True)
        return
    console.print(f"{escape(str(state.source))}: the fence of {escape(run)} is lifted", soft_wrap=True)
    if not before.intact:
        console.print(f"It was not intact: {escape('; '.join(before.findings))}", soft_wrap=True)
