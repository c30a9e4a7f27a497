"""Each task of a DAG gets the queue of its step."""

from __future__ import annotations

from typing import Any

from include.cutover.plan.model import Plan
from include.cutover.runs.queues import queue_of


def assign_queues(dag: Any, plan: Plan) -> None:
    """To be called at the end of each function that builds a DAG of a plan; see ``steps.queues``."""
    for task in dag.tasks:
        mapped: dict[str, Any] | None = getattr(task, "partial_kwargs", None)
        given = getattr(task, "step", None) if mapped is None else mapped.get("step")
        queue = queue_of(plan, given or task.task_id.rsplit(".", 1)[-1])
        if queue is None:
            continue
        if mapped is None:
            task.queue = queue
        else:
            mapped["queue"] = queue
