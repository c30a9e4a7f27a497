"""The state right before the services start on the target: positions of logs and statistics, and the target's structure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg

from include.cutover.aftercare import structure
from include.cutover.aftercare.logs import ends
from include.cutover.aftercare.record import BASELINE
from include.cutover.aftercare.statistics import standing
from include.cutover.connections.commands import Remote
from include.cutover.errors import CutoverError
from include.cutover.evidence.record import Evidence
from include.cutover.plan.model import Plan

log = logging.getLogger(__name__)


def keep(evidence: Evidence, plan: Plan, conninfo: Callable[[], str], remote: Remote, role: str | None) -> None:
    """Record the state in the cutover's evidence, once: a later try, with services that run already, changes nothing.

    A part that cannot be read is missing there, and the aftercare reports that: go-live does not wait for it.

    Args:
        evidence: The cutover's.
        plan: Its plan.
        conninfo: The target's.
        remote: The host of an SSH connection, for logs that are not on this one.
        role: The application's role; None where the plan moves no application.
    """
    if not plan.aftercare.enabled or evidence.last(BASELINE) is not None:
        return
    statistics: dict[str, Any] = {}
    try:
        statistics = standing(conninfo(), plan.target_schema).as_dict()
    except (CutoverError, psycopg.Error) as error:
        log.warning("PostgreSQL's statistics cannot be read: %s", type(error).__name__)
    kept = False
    try:
        evidence.save(structure.FILE, structure.as_text(structure.state(conninfo(), plan.target_schema, role)), 0o600)
        kept = True
    except (CutoverError, psycopg.Error) as error:
        log.warning("the target's structure cannot be read: %s", type(error).__name__)
    evidence.append(BASELINE, statistics=statistics, logs=ends(plan.services, remote), structure=kept)
