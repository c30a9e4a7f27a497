"""``access``: the roles of a plan as SQL, brought about, or looked at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from include.cutover.checks import Check, worst
from include.cutover.connections import tls
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.target import access, access_checks, access_statements
from include.cutover.target import session as target_session

app = typer.Typer(help="The roles in the target: owner, pipeline, application, reporting.", no_args_is_help=True)

_MARKS = {"passed": "good", "failed": "bad", "unknown": "could not check"}
STATUS = {"passed": 0, "failed": 1, "unknown": 2}

PlanName = Annotated[str, typer.Option("--plan", help="Name of the plan.")]
Target = Annotated[str, typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; for sql and check, anybody's.")]


def _ends(plan: str, target: str) -> tuple[Plan, str]:
    found = load_plan(plan)
    return found, tls.demanded(target_session.libpq_url(target), found.tls, "--target")


@app.command(name="sql")
def show(plan: PlanName, target: Target) -> None:
    """Print the SQL that is missing: first an administrator's, then what the cutover would do for tables that are there."""
    found, conninfo = _ends(plan, target)
    parts: list[tuple[str, Callable[..., list[str]]]] = [
        (
            "as an administrator, in the target's database; passwords are set apart, with \\password in psql",
            access_statements.role_statements,
        ),
        ("as the pipeline's role, or an administrator", access_statements.object_statements),
    ]
    with target_session.session(conninfo, found.target_schema) as connection:
        for title, statements in parts:
            missing = statements(connection, found)
            sys.stdout.write("\n".join([f"-- {title if missing else 'nothing to do ' + title}", *missing]) + "\n")


@app.command()
def apply(plan: PlanName, target: Target) -> None:
    """As an administrator, bring roles and rights about, in one transaction; again at any time. Leaves passwords alone."""
    found, conninfo = _ends(plan, target)
    done = access.apply(conninfo, found, roles=True)
    sys.stdout.write("\n".join(done or ["nothing to do"]) + "\n")


@app.command()
def check(plan: PlanName, target: Target, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Look at roles and rights; changes nothing. Status 0 as the plan has them, 1 not so, 2 could not check."""
    found, conninfo = _ends(plan, target)
    checks = access_checks.examine(conninfo, found)
    if as_json:
        content = {"plan": plan, "checks": [item.as_dict() for item in checks]}
        sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    else:
        tell(checks)
    raise typer.Exit(STATUS[worst(checks)])


def tell(checks: list[Check]) -> None:
    """One line for each check: good, bad with what to do, or could not check."""
    for item in checks:
        place = f" ({item.where})" if item.where and item.outcome != "passed" else ""
        said = f"{_MARKS[item.outcome]} {item.title}{place}" + (f": {item.found}" if item.found else "")
        do = f". {item.do}" if item.do and item.outcome != "passed" else ""
        sys.stdout.write(" ".join(f"{said.rstrip('.')}{do}".split()) + "\n")
