"""The plan that a DAG is built from, and names of its tasks."""

from __future__ import annotations

import hashlib
import re

from include.cutover.errors import PlanInvalid
from include.cutover.evidence import lease
from include.cutover.evidence.record import Evidence
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.steps.step import frozen_plan


def plan_for_dag(name: str) -> Plan:
    """Return the plan of the file; where the file is broken while a run is open, the plan frozen in that run's evidence.

    A DAG that vanished while it runs would leave the run hanging with the services stopped.

    Raises:
        PlanInvalid: When the file has faults and no run is open.
    """
    try:
        return load_plan(name)
    except PlanInvalid:
        held = lease.read(name)
        if held is not None:
            evidence = Evidence.of(name, held.subject)
            frozen = frozen_plan(evidence)
            if frozen is not None and evidence.sealed is None:
                return frozen
        raise


def task_name(table: str) -> str:
    """Return a table's name as Airflow accepts it for a task; a short hash keeps a changed one unique."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", table)
    return plain if plain == table else f"{plain}_{hashlib.sha256(table.encode()).hexdigest()[:6]}"
