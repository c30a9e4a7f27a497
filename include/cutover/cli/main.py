"""The command line, ``python -m include.cutover``. Exit status 0 only when what was asked for happened, 2 when it cannot."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from typer.exceptions import Abort, TyperException

from include.cutover.application import configuration
from include.cutover.cli import access as access_command
from include.cutover.cli import assess as assess_command
from include.cutover.cli import doctor as doctor_command
from include.cutover.cli import notices as notices_command
from include.cutover.cli import recovery
from include.cutover.cli import retention as retention_command
from include.cutover.cli import roles as roles_command
from include.cutover.cli import verify as verify_command
from include.cutover.cli.console import Narrator, follow, phases, tell_summary
from include.cutover.errors import CutoverError, Refused, StepFailed, Unreachable
from include.cutover.evidence.record import Evidence
from include.cutover.masking import mask
from include.cutover.people.notices import Channel
from include.cutover.people.roles import Accounts
from include.cutover.places import ROOT, plans_folder
from include.cutover.plan.application import DotenvConfiguration
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import deciders
from include.cutover.source import database_file
from include.cutover.stack.local import Stack
from include.cutover.stack.settings import StackSettings
from include.cutover.target import session as target_session

LIVE, NOT_LIVE, UNUSABLE = 0, 1, 2
STACK = ROOT / "var" / "stack"

app = typer.Typer(help="Moves a live application from SQLite to PostgreSQL.", no_args_is_help=True, add_completion=False)
stack_app = typer.Typer(help="A local Airflow that stays up.", no_args_is_help=True)
app.add_typer(stack_app, name="stack")
app.add_typer(recovery.fence_app, name="fence")
app.add_typer(recovery.evidence_app, name="evidence")
app.add_typer(roles_command.app, name="roles")
app.add_typer(recovery.incident_app, name="incident")
app.command()(recovery.rollback)
app.command(name="retention")(retention_command.command)
app.add_typer(access_command.app, name="access")
console = Console(highlight=False)


class Approval(StrEnum):
    """Who answers the gates."""

    auto = "auto"
    ask = "ask"


PlanName = Annotated[str, typer.Option("--plan", help="Name of the plan: a file below include/plans without .yaml.")]
Port = Annotated[int | None, typer.Option(help="Of Airflow's interface; a free one when left out.", min=1, max=65535)]
Folder = Annotated[Path, typer.Option(help="Where the local Airflow keeps what it writes.")]


@app.command()
def run(
    plan: PlanName,
    source: Annotated[Path, typer.Option(help="The SQLite file of the application.")],
    target: Annotated[str, typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE")],
    application: Annotated[
        str | None, typer.Option(help="The same with the role that the application logs in with; needed with services.")
    ] = None,
    services: Annotated[bool, typer.Option(help="Without: no services, configuration and smoke tests.")] = True,
    approve: Annotated[Approval, typer.Option(help="ask: the lead answers in Airflow; auto: where the plan allows it.")] = (
        Approval.ask
    ),
    reason: Annotated[str, typer.Option(help="Stands in the evidence and in the report.")] = "from the command line",
    port: Port = None,
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave Airflow running afterwards.")] = False,
    folder: Folder = STACK,
) -> None:
    """Start a local Airflow, run the cutover of a plan on it, and tell it as it happens. Status 0 only when it is live."""
    if not services:
        os.environ["CUTOVER_NO_SERVICES"] = "1"
    wanted = load_plan(plan)
    if approve is Approval.auto:
        deciders.require_auto_approval(wanted)
    if len(reason.strip()) < 3:
        raise Refused("the reason is too short", where="--reason", expected="a ticket or a sentence")
    database_file.require_database(source)
    file = source.resolve()
    login = postgres_connection(target)
    require_reachable(login)
    own_login = login if application is None else postgres_connection(application, "--application")
    if wanted.configuration is not None and own_login["login"] == login["login"]:
        raise Refused(
            "the application needs a role of its own: the pipeline shuts it out of the target until go-live",
            where="--application",
            expected="another user than in --target",
            found=str(login["login"]),
            do="Make one, see docs/decisions/0004-the-targets-fence.md; or move the data alone, with --no-services.",
        )
    connections = {
        wanted.connections.source: json.dumps({"conn_type": "sqlite", "host": str(file)}),
        wanted.connections.target: json.dumps(login),
        wanted.connections.application: json.dumps(own_login),
    }
    stack = Stack(folder, StackSettings(connections, port=port, accounts=Accounts.of([wanted]), frozen_code=True))
    if stack.running:
        raise Refused(
            "a local Airflow runs there already", where=stack.url, do="'make down' ends it; or name another --folder."
        )
    console.print("Airflow is starting …")
    with _kept(stack) if keep_stack else stack.roster.guarded():
        stack.start([f"cutover_{plan}"])
        status = _cut_over(stack, wanted, approve, reason, notify=services)
    if keep_stack:
        console.print(f"Airflow stays up at {stack.url}; 'python -m include.cutover stack down --folder {folder}' ends it.")
    raise typer.Exit(status)


def _place(settings: configuration.Settings | None) -> str:
    if settings is None:
        return "none"
    return str(settings.file) if isinstance(settings, DotenvConfiguration) else configuration.name(settings)


@app.command(name="plan")
def show_plan(plan: PlanName) -> None:
    """Check a plan and show what it says."""
    found = load_plan(plan)
    streams = sum(table.streams for table in found.tables.values())
    lines = {
        "application": found.application,
        "connections": ", ".join(name for name in found.connections.model_dump().values() if name),
        "target schema": f"{found.target_schema}; the application is shut out of it by {found.target_fence}",
        "tables": f"{len(found.tables)}, copied by {streams} tasks",
        "secret columns": str(sum(len(table.secret) for table in found.tables.values())),
        "services": ", ".join(service.name for service in found.services) or "none",
        "configuration": _place(found.configuration),
        "health": found.smoke_tests.base_url + found.smoke_tests.health.path if found.smoke_tests else "not asked",
        "backup": f"{found.backup.directory}; second copy {found.backup.second_copy or 'none'}",
        "window": f"{found.window.minutes} minutes; a gate waits {found.gates.response_minutes:g} minutes",
        "may decide": ", ".join(f"{person.name} ({person.user})" for person in found.people.deciders),
    }
    console.print(f"[bold]{escape(found.name)}[/]: no faults")
    for name, value in lines.items():
        console.print(f"  {name:16}{escape(value)}", soft_wrap=True)


@app.command(name="notices")
def show_notices(
    plan: PlanName,
    window_start: Annotated[str, typer.Option(help="Start of the window, ISO 8601; now when left out.")] = "",
) -> None:
    """Show all notices of a run before it starts: when, to whom, what they say. Status 2 when they cannot be written."""
    raise typer.Exit(notices_command.run(plan, window_start=window_start))


@app.command()
def assess(
    plan: PlanName,
    source: Annotated[Path, typer.Option(help="The SQLite file of the application; it is not touched.")],
    target: Annotated[
        str | None, typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; a local one when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole assessment as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Where a report for people goes.")] = None,
) -> None:
    """Look at every value of a source before the window. Status 0 clean, 1 something blocks, 2 could not assess."""
    raise typer.Exit(assess_command.run(plan, source, target=target, as_json=as_json, html=html))


@app.command()
def verify(
    plan: PlanName,
    source: Annotated[Path, typer.Option(help="The backup, or the SQLite file of the application; it is not touched.")],
    target: Annotated[str, typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE")],
    tables: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    fail_on_mismatch: Annotated[bool, typer.Option("--fail-on-mismatch", help="Status 1 where the sides differ.")] = False,
    counts_only: Annotated[bool, typer.Option("--counts-only", help="Only the table of counts and deltas.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Compare source and target: counts, content, orphans, sequences, schema. Status 2 when it could not compare."""
    raise typer.Exit(
        verify_command.run(
            plan,
            source,
            target,
            tables=[name.strip() for name in tables.split(",") if name.strip()],
            fail_on_mismatch=fail_on_mismatch,
            counts_only=counts_only,
            as_json=as_json,
        )
    )


@app.command()
def doctor(
    plan: PlanName,
    target: Annotated[
        str | None, typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; AIRFLOW_CONN_… when left out.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The application's SQLite file; AIRFLOW_CONN_… when left out.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Send a test message to every channel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look at everything that can be looked at a week ahead. Status 0 all good, 1 something bad, 2 could not check."""
    raise typer.Exit(
        doctor_command.run(plan, target=target, source=source, send=send, as_json=as_json, channels=_airflow_channels)
    )


def _airflow_channels(plan: Plan) -> Sequence[Channel]:
    from include.cutover.tasks.channels import channels  # the hooks that send a cutover's notices; Airflow is not cheap

    return channels(plan)


@stack_app.command(name="up")
def stack_up(port: Port = None, folder: Folder = STACK) -> None:
    """Start a local Airflow and leave it running. Connections come from AIRFLOW_CONN_… in the environment."""
    stack = Stack(folder, StackSettings(port=port))
    if stack.running:
        console.print(f"A local Airflow runs already at {stack.url}")
        return
    stack.start([f"cutover_{file.stem}" for file in sorted(plans_folder().glob("*.yaml"))])
    _tell_logins(stack)


@stack_app.command(name="down")
def stack_down(folder: Folder = STACK) -> None:
    """End the local Airflow: exactly the processes that were started for it."""
    ended = Stack(folder).stop()
    console.print(f"ended: {', '.join(ended)}" if ended else "no local Airflow runs there")


@stack_app.command(name="status")
def stack_status(folder: Folder = STACK) -> None:
    """Say where the local Airflow runs. Status 1 when it does not, or not all of it."""
    stack = Stack(folder)
    leaders = stack.roster.leaders()
    if not stack.running:
        console.print("no local Airflow runs there")
        raise typer.Exit(1)
    for leader in leaders:
        console.print(f"{leader.name:16}{f'pid {leader.pid}' if leader.alive else 'ended'}")
    _tell_logins(stack)
    raise typer.Exit(0 if all(leader.alive for leader in leaders) else 1)


@contextmanager
def _kept(stack: Stack) -> Iterator[None]:
    """Leave the stack running when the block ends well, and only then."""
    try:
        yield
    except BaseException:
        stack.stop()
        raise


def _tell_logins(stack: Stack) -> None:
    console.print(f"Airflow is at {stack.url}")
    for user, password in stack.logins.items():
        console.print(f"  {user} / {escape(password)}")


def _cut_over(stack: Stack, plan: Plan, approve: Approval, reason: str, *, notify: bool) -> int:
    lead = plan.people.lead.user
    console.print(f"Airflow is at {stack.url}")
    if approve is Approval.ask:
        console.print(
            f"The gates wait for an answer by {escape(lead)}, log-in {escape(lead)} / {escape(stack.logins[lead])}"
        )
    with stack.client(lead) as client:
        dag_id = f"cutover_{plan.name}"
        run_id = client.trigger(dag_id, {"approve": approve.value, "reason": reason, "notify": notify})
        evidence = Evidence.of(plan.name, run_id)
        follow(client, dag_id, run_id, evidence, Narrator(console, plan, phases(client, dag_id, run_id)).tell)
        if not evidence.exists:
            failed = next((task for task in client.tasks(dag_id, run_id) if task.state == "failed"), None)
            log = client.log(dag_id, run_id, failed) if failed else ""
            raise StepFailed("the run left no evidence", where=f"{dag_id} {run_id}", found=log[-1500:])
    tell_summary(evidence, plan, console)
    sealed = evidence.sealed
    return LIVE if sealed is not None and sealed["outcome"] == "live" else NOT_LIVE


def postgres_connection(url: str, where: str = "--target") -> dict[str, Any]:
    """An Airflow connection from a URL; it holds the password.

    Args:
        where: The option that the URL came from.

    Raises:
        Refused: When the URL is not of that form. The message does not repeat it: it may hold a password.
    """
    form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise Refused("the target's URL cannot be read", where=where, expected=form) from None
    if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"):
        found = f"a scheme {parts.scheme!r}" if parts.scheme.isalnum() else "no scheme"
        raise Refused("the target is not a PostgreSQL URL", where=where, expected=form, found=found)
    database = unquote(parts.path.removeprefix("/"))
    missing = [
        name for name, value in (("host", parts.hostname), ("user", parts.username), ("database", database)) if not value
    ]
    if missing or "/" in database:
        found = f"no {' and no '.join(missing)}" if missing else "a path with more than a database"
        raise Refused("the target's URL is not complete", where=where, expected=form, found=found)
    return {
        "conn_type": "postgres",
        "host": parts.hostname,
        "port": port,
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": database,
        "extra": dict(parse_qsl(parts.query)),
    }


def require_reachable(login: Mapping[str, Any]) -> None:
    """Log in to the target once.

    Raises:
        Unreachable: When that does not work.
    """
    import psycopg

    try:
        psycopg.connect(
            host=login["host"], port=login["port"], user=login["login"], password=login["password"],
            dbname=login["schema"], **{"connect_timeout": 10, **login["extra"]},
        ).close()  # fmt: skip
    except psycopg.Error as error:
        found = target_session.connection_problem(error, login["password"])
        where = f"{login['host']}:{login['port']}, database {login['schema']}, user {login['login']}"
        do = "Check that the server runs, and every part of --target."
        raise Unreachable("the target does not let anybody in", where=where, found=found, do=do) from None


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(given, standalone_mode=False, prog_name="python -m include.cutover")
    except TyperException as error:  # wrong arguments; the one without a message has shown the help
        message = error.format_message()
        if message:
            sys.stderr.write(f"cutover: {message}\n")
        return UNUSABLE
    except (Abort, KeyboardInterrupt):
        sys.stderr.write("cutover: interrupted; everything that was started is ended\n")
        return 130
    except Exception as error:  # noqa: BLE001  # whatever it is, the reader gets a sentence
        told = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error} (--debug shows where)"
        sys.stderr.write(f"cutover: {mask(told)}\n")
        if debug:
            traceback.print_exc()
        return UNUSABLE
    return int(status or 0)
