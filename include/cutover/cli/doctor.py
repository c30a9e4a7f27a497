"""The command ``doctor``: all checks that are possible a week before the window, one line for each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from include.cutover.checks import Check, Outcome
from include.cutover.cli.options import AsJson, PlanName, TargetOrEnvironment, from_options
from include.cutover.cli.output import STATUS, print_json, print_lines
from include.cutover.connections import environment, tls
from include.cutover.errors import CannotCheck
from include.cutover.people.notices import Channel
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import doctor, sufficiency
from include.cutover.preflight.doctor_site import Site
from include.cutover.target import session as target_session

_OUTCOMES: dict[str, Outcome] = {"stop": "failed", "ask": "unknown", "enough": "passed"}


@dataclass(frozen=True)
class DoctorOptions:
    """Options of the command ``doctor``."""

    plan: PlanName
    target: TargetOrEnvironment = None
    source: Annotated[
        Path | None,
        typer.Option(help="SQLite file of the application; from AIRFLOW_CONN_… in the environment when left out."),
    ] = None
    send: Annotated[bool, typer.Option("--send", help="Send a test message to every channel.")] = False
    as_json: AsJson = False


@from_options(DoctorOptions)
def command(options: DoctorOptions) -> None:
    """Run every check that is possible a week before the window.

    Exit status: 0 all good, or accepted by the plan; 1 something is bad; 2 something could not be checked.
    """
    plan = load_plan(options.plan)
    site = Site(
        plan,
        _target(plan, options.target),
        options.source or _source(plan),
        cache(lambda connection: environment.host(connection, unverified=plan.connections.ssh_unverified)),
        lambda: _channels(plan),
    )
    with contextlib.redirect_stdout(sys.stderr):  # Airflow's hooks log there; standard output is for the result only
        checks = doctor.examine(site, send=options.send)
    judged = sufficiency.judge(checks, plan.preflight.accept_unknown)
    outcome = _OUTCOMES[judged.outcome]
    if options.as_json:
        print_json({"plan": plan.name, "outcome": outcome, "checks": [item.as_dict() for item in checks]})
    else:
        print_lines([_accepted(item) if item in judged.accepted else item for item in checks])
        counts = (len(checks) - len(judged.failed) - len(judged.open), len(judged.failed), len(judged.open))
        sys.stdout.write("{} good, {} bad, {} could not be checked\n".format(*counts))
    raise typer.Exit(STATUS[outcome])


def _channels(plan: Plan) -> Sequence[Channel]:
    from include.cutover.tasks.channels import channels  # the hooks of a cutover's notices; importing Airflow is slow

    return channels(plan)


def _accepted(check: Check) -> Check:
    return replace(check, outcome="passed", found=f"could not be checked, and the plan accepts that ({check.found})")


def _target(plan: Plan, url: str | None) -> str | None:
    if url is not None:
        return tls.demanded(target_session.libpq_url(url), plan.tls, "--target")
    found = environment.conninfo(plan.connections.target)
    return None if found is None else tls.demanded(found, plan.tls, f"connection {plan.connections.target}")


def _source(plan: Plan) -> Path | None:
    """Return the file of the source's connection: its host, as in Airflow's SQLite provider."""
    text = os.environ.get(environment.variable(plan.connections.source), "").strip()
    if not text:
        return None
    try:
        if text.startswith("{"):
            path = str(json.loads(text).get("host") or "")
        else:
            parts = urlsplit(text)
            path = unquote(parts.netloc or "") or unquote(parts.path)
    except (ValueError, AttributeError):
        path = ""
    if not path.strip("/"):
        raise CannotCheck(
            "the connection does not name a file",
            where=environment.variable(plan.connections.source),
            expected="the absolute path of the SQLite file as the connection's host",
            do="Correct the connection, or name the file with --source.",
        )
    return Path("/" + path.strip("/"))
