"""The queue of a step, for Airflow workers on several hosts.

A step, and any other task, runs beside the application unless its row in the runbook says ``anywhere``: a step without that
mark runs where everything can be reached.
"""

from __future__ import annotations

from include.cutover.plan.model import Plan
from include.cutover.runs import runbook


def queue_of(plan: Plan, step: str) -> str | None:
    """Return the queue of a step; None where any worker will do."""
    row = runbook.find(step)
    return None if row is not None and row.anywhere else plan.source_queue
