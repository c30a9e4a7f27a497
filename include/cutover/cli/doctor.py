"""``doctor``: what can be looked at a week ahead, one line for each thing."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from include.cutover.checks import Check, Outcome
from include.cutover.cli import access as access_command
from include.cutover.connections import environment, tls
from include.cutover.errors import CannotCheck
from include.cutover.people.notices import Channel
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import doctor, sufficiency
from include.cutover.preflight.doctor_site import Site
from include.cutover.target import session as target_session

_OUTCOMES: dict[str, Outcome] = {"stop": "failed", "ask": "unknown", "enough": "passed"}


def run(
    plan_name: str,
    *,
    target: str | None = None,
    source: Path | None = None,
    send: bool = False,
    as_json: bool = False,
    channels: Callable[[Plan], Sequence[Channel]] = lambda _: (),
) -> int:
    """Look at everything, tell it, and return the exit status.

    Args:
        target: URL of the target; the connection in the environment when left out.
        source: The SQLite file; the same.
        send: Send a test message to every channel.
        channels: How they are made; that takes Airflow's hooks.

    Returns:
        0: everything is good, or accepted by the plan. 1: something is bad. 2: nothing is bad, and something could not be
        checked.

    Raises:
        PlanInvalid: When the plan has faults.
        Refused, CannotCheck: When a connection cannot be meant.
    """
    plan = load_plan(plan_name)
    site = Site(
        plan,
        _target(plan, target),
        source or _source(plan),
        cache(lambda connection: environment.host(connection, unverified=plan.connections.ssh_unverified)),
        lambda: channels(plan),
    )
    with contextlib.redirect_stdout(sys.stderr):  # Airflow's hooks log there, and JSON is to stand alone
        checks = doctor.examine(site, send=send)
    judged = sufficiency.judge(checks, plan.preflight.accept_unknown)
    outcome = _OUTCOMES[judged.outcome]
    if as_json:
        content: dict[str, Any] = {"plan": plan.name, "outcome": outcome, "checks": [item.as_dict() for item in checks]}
        sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    else:
        access_command.tell([_accepted(item) if item in judged.accepted else item for item in checks])
        counts = (len(checks) - len(judged.failed) - len(judged.open), len(judged.failed), len(judged.open))
        sys.stdout.write("{} good, {} bad, {} could not be checked\n".format(*counts))
    return access_command.STATUS[outcome]


def _accepted(check: Check) -> Check:
    return replace(check, outcome="passed", found=f"could not be checked, and the plan accepts that ({check.found})")


def _target(plan: Plan, url: str | None) -> str | None:
    if url is not None:
        return tls.demanded(target_session.libpq_url(url), plan.tls, "--target")
    found = environment.conninfo(plan.connections.target)
    return None if found is None else tls.demanded(found, plan.tls, f"connection {plan.connections.target}")


def _source(plan: Plan) -> Path | None:
    """The file that the connection of the source names: its host, as Airflow's SQLite provider has it."""
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
            "the connection names no file",
            where=environment.variable(plan.connections.source),
            expected="the absolute path of the SQLite file as the connection's host",
        )
    return Path("/" + path.strip("/"))
