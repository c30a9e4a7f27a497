"""The commands ``access``: the roles of a plan in the target as SQL, created, or checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from include.cutover.checks import worst
from include.cutover.cli.options import URL_FORM, AsJson, PlanName
from include.cutover.cli.output import STATUS, print_json, print_lines
from include.cutover.connections import tls
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.target import access, access_checks, access_statements
from include.cutover.target import session as target_session

app = typer.Typer(help="The roles in the target: owner, pipeline, application, reporting.", no_args_is_help=True)

AnyLogin = Annotated[str, typer.Option("--target", help=f"{URL_FORM}; any role that can log in.")]
Administrator = Annotated[str, typer.Option("--target", help=f"{URL_FORM}; an administrator.")]


def _ends(plan: str, target: str) -> tuple[Plan, str]:
    found = load_plan(plan)
    return found, tls.demanded(target_session.libpq_url(target), found.tls, "--target")


@app.command(name="sql")
def show(plan: PlanName, target: AnyLogin) -> None:
    """Print the missing SQL: first for an administrator, then for the existing tables, as the cutover would run it.

    Exit status: 0 printed; 2 it could not be read.
    """
    found, conninfo = _ends(plan, target)
    parts: list[tuple[str, Callable[..., list[str]]]] = [
        (
            "as an administrator, in the target's database; set passwords separately, with \\password in psql",
            access_statements.role_statements,
        ),
        ("as the pipeline's role, or an administrator", access_statements.object_statements),
    ]
    with target_session.session(conninfo, found.target_schema) as connection:
        for title, statements in parts:
            missing = statements(connection, found)
            sys.stdout.write("\n".join([f"-- {title if missing else 'nothing to do ' + title}", *missing]) + "\n")


@app.command()
def apply(plan: PlanName, target: Administrator) -> None:
    """Create roles and grant rights in one transaction; run it again at any time. Does not set passwords.

    Exit status: 0 done; 2 nothing was changed.
    """
    found, conninfo = _ends(plan, target)
    done = access.apply(conninfo, found, roles=True)
    sys.stdout.write("\n".join(done or ["nothing to do"]) + "\n")


@app.command()
def check(plan: PlanName, target: AnyLogin, as_json: AsJson = False) -> None:
    """Check roles and rights; changes nothing.

    Exit status: 0 as in the plan; 1 something differs; 2 something could not be checked.
    """
    found, conninfo = _ends(plan, target)
    checks = access_checks.examine(conninfo, found)
    if as_json:
        print_json({"plan": plan, "checks": [item.as_dict() for item in checks]})
    else:
        print_lines(checks)
    raise typer.Exit(STATUS[worst(checks)])
