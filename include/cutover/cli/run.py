"""The command ``run``: a cutover on a local Airflow that is started for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.cli.console import Narrator, follow, phases, print_summary
from include.cutover.cli.options import URL_FORM, PlanName, SourceFile, TargetUrl, from_options, sentence
from include.cutover.cli.stack import FOLDER, Folder, Port
from include.cutover.cli.target_url import postgres_connection, require_reachable
from include.cutover.errors import Refused, StepFailed
from include.cutover.evidence.record import Evidence
from include.cutover.people.roles import Accounts
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import deciders
from include.cutover.source import database_file
from include.cutover.stack.local import Stack
from include.cutover.stack.settings import StackSettings

LIVE, NOT_LIVE = 0, 1

console = Console(highlight=False)


class Approval(StrEnum):
    """How the gates are answered."""

    auto = "auto"
    ask = "ask"


@dataclass(frozen=True)
class RunOptions:
    """Options of the command ``run``."""

    plan: PlanName
    source: SourceFile
    target: TargetUrl
    application: Annotated[
        str | None, typer.Option(help=f"{URL_FORM} with the role of the application; required with services.")
    ] = None
    services: Annotated[bool, typer.Option(help="With --no-services: only the data is moved.")] = True
    approve: Annotated[
        Approval, typer.Option(help="ask: the lead answers in Airflow. auto: automatic, where the plan allows it.")
    ] = Approval.ask
    reason: Annotated[str, typer.Option(help="Reason of the run, for evidence and report.")] = "from the command line"
    port: Port = None
    keep_stack: Annotated[bool, typer.Option("--keep-stack", help="Leave Airflow running afterwards.")] = False
    folder: Folder = FOLDER


@from_options(RunOptions)
def command(options: RunOptions) -> None:
    """Start a local Airflow, run the cutover of a plan on it, and print each step as it ends.

    Exit status: 0 live on PostgreSQL; 1 not live; 2 the run could not start or left no evidence.
    """
    if not options.services:
        os.environ["CUTOVER_NO_SERVICES"] = "1"
    plan = load_plan(options.plan)
    connections = _connections(options, plan)
    settings = StackSettings(connections, port=options.port, accounts=Accounts.of([plan]), frozen_code=True)
    stack = Stack(options.folder, settings)
    if stack.running:
        raise Refused(
            "a local Airflow runs there already", where=stack.url, do="Stop it with 'make down', or set another --folder."
        )
    console.print("Airflow is starting …")
    with _kept(stack) if options.keep_stack else stack.roster.guarded():
        stack.start([f"cutover_{options.plan}"])
        status = _cut_over(stack, plan, options)
    if options.keep_stack:
        stop = f"python -m include.cutover stack down --folder {options.folder}"
        console.print(f"Airflow keeps running at {stack.url}; '{stop}' stops it.")
    raise typer.Exit(status)


def _connections(options: RunOptions, plan: Plan) -> dict[str, str]:
    """Check the options and make Airflow's connections from them.

    Raises:
        Refused: When the plan does not allow them, or they contradict each other.
        Unreachable: When the target does not accept the log-in.
    """
    if options.approve is Approval.auto:
        deciders.require_auto_approval(plan)
    sentence(options.reason)
    database_file.require_database(options.source)
    login = postgres_connection(options.target)
    require_reachable(login)
    own_login = _application_login(options, plan, login)
    return {
        plan.connections.source: json.dumps({"conn_type": "sqlite", "host": str(options.source.resolve())}),
        plan.connections.target: json.dumps(login),
        plan.connections.application: json.dumps(own_login),
    }


def _application_login(options: RunOptions, plan: Plan, login: dict[str, Any]) -> dict[str, Any]:
    given = options.application
    own_login = login if given is None else postgres_connection(given, "--application")
    if plan.configuration is not None and own_login["login"] == login["login"]:
        raise Refused(
            "the application needs a role of its own: the pipeline keeps it out of the target until go-live",
            where="--application",
            expected="another user than in --target",
            found=str(login["login"]),
            do="Create one, see docs/decisions/0004-the-targets-fence.md; or move only the data, with --no-services.",
        )
    return own_login


@contextmanager
def _kept(stack: Stack) -> Iterator[None]:
    """Leave the stack running only when the block ends without an error."""
    try:
        yield
    except BaseException:
        stack.stop()
        raise


def _cut_over(stack: Stack, plan: Plan, options: RunOptions) -> int:
    lead = plan.people.lead.user
    console.print(f"Airflow is at {stack.url}")
    if options.approve is Approval.ask:
        console.print(
            f"The gates wait for an answer by {escape(lead)}, log-in {escape(lead)} / {escape(stack.logins[lead])}"
        )
    with stack.client(lead) as client:
        dag_id = f"cutover_{plan.name}"
        form = {"approve": options.approve.value, "reason": options.reason, "notify": options.services}
        run_id = client.trigger(dag_id, form)
        evidence = Evidence.of(plan.name, run_id)
        follow(client, dag_id, run_id, evidence, Narrator(console, plan, phases(client, dag_id, run_id)).tell)
        if not evidence.exists:
            failed = next((task for task in client.tasks(dag_id, run_id) if task.state == "failed"), None)
            log = client.log(dag_id, run_id, failed) if failed else ""
            raise StepFailed(
                "the run left no evidence",
                where=f"{dag_id} {run_id}",
                found=log[-1500:],
                do="Read the log of the failed task in Airflow.",
            )
    print_summary(evidence, plan, console)
    sealed = evidence.sealed
    return LIVE if sealed is not None and sealed["outcome"] == "live" else NOT_LIVE
