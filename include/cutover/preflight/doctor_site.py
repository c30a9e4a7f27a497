"""The site that ``doctor`` examines, and the form of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from include.cutover.checks import Check, Outcome
from include.cutover.connections import environment
from include.cutover.connections.commands import Remote, no_remote
from include.cutover.people.notices import Channel
from include.cutover.plan.model import Plan
from include.cutover.target.session import Connection, connect

NOT_REACHED = "the target was not reached"
CONNECT_FIRST = "Repair its connection first."


@dataclass(frozen=True)
class Site:
    """The ends of a cutover, as far as they are known from here.

    Attributes:
        target: libpq connection string with the pipeline's role; None where it is not defined.
        live: The application's SQLite file; None where it is not defined.
        channels: Slack and mail; made only to send a message.
    """

    plan: Plan
    target: str | None
    live: Path | None
    remote: Remote = no_remote
    channels: Callable[[], Sequence[Channel]] = tuple

    @property
    def application(self) -> dict[str, Any] | None:
        """The application's log-in; None where it is not defined."""
        return environment.fields(self.plan.connections.application)

    @property
    def role(self) -> str | None:
        """The application's role; None where the plan moves no application, or the role is not defined."""
        if self.plan.configuration is None:
            return None
        if self.plan.access is not None:
            return self.plan.access.application
        return (self.application or {}).get("user")


def result(name: str, title: str, good: bool | None, expected: str, found: str, do: str, where: str = "") -> Check:
    """Return a check.

    Args:
        name: Stable identifier.
        title: Plain words for the observer.
        good: None when it could not be checked.
        expected: The state that passes.
        found: The state that was found.
        do: The remedy when it is not good.
        where: Table, file or connection that the check is about.
    """
    outcome: Outcome = "unknown" if good is None else "passed" if good else "failed"
    return Check(name, title, outcome, expected, found, "" if good else do, where)


def session(site: Site) -> Connection | None:
    """Open a session with the target; None where it cannot be reached, which ``target_reachable`` reports."""
    if site.target is None:
        return None
    try:
        connection = connect(site.target, seconds=5)
    except psycopg.Error:
        return None
    connection.execute("SET statement_timeout = '15s'")
    return connection
