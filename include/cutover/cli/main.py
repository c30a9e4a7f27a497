"""The command line, ``python -m include.cutover``. Exit status 0 only for success; 2 and one sentence for an error."""

from __future__ import annotations

import io
import sys
import traceback

import typer
from typer.exceptions import Abort, TyperException

from include.cutover.cli import (
    access,
    assess,
    doctor,
    evidence,
    fence,
    incident,
    notices,
    plan,
    retention,
    roles,
    rollback,
    run,
    stack,
    status,
    verify,
)
from include.cutover.errors import CutoverError
from include.cutover.masking import mask

UNUSABLE, INTERRUPTED = 2, 130

_HELP = """Moves a live application from SQLite to PostgreSQL.

Exit status of every command: 2 and one sentence on standard error when it cannot do its work, 130 when it is interrupted.
--debug adds the traceback of an error.
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False)
for name, command in (
    ("run", run.command),
    ("plan", plan.command),
    ("notices", notices.command),
    ("assess", assess.command),
    ("verify", verify.command),
    ("doctor", doctor.command),
    ("status", status.command),
    ("rollback", rollback.command),
    ("retention", retention.command),
):
    app.command(name=name)(command)
for name, commands in (
    ("stack", stack.app),
    ("fence", fence.app),
    ("evidence", evidence.app),
    ("roles", roles.app),
    ("incident", incident.app),
    ("access", access.app),
):
    app.add_typer(commands, name=name)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot show must not end the command
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(given, standalone_mode=False, prog_name="python -m include.cutover")
    except TyperException as error:  # wrong arguments; the one without a message has shown the help
        message = error.format_message()
        if message:
            sys.stderr.write(f"cutover: {message}\n")
        return UNUSABLE
    except (Abort, KeyboardInterrupt):
        sys.stderr.write("cutover: interrupted; all started processes are ended\n")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # every error becomes a sentence
        text = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error} (--debug shows where)"
        sys.stderr.write(f"cutover: {mask(text)}\n")
        if debug:
            traceback.print_exc()
        return UNUSABLE
    return int(status or 0)
