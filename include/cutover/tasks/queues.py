"""Each task of a DAG gets the queue of its step."""

from __future__ import annotations

from typing import Any

from include.cutover.plan.model import Plan
from include.cutover.runs.queues import queue_of
from include.cutover.tasks.operators import step_name


def assign_queues(dag: Any, plan: Plan) -> None:
    """Set the queue of each task of a DAG; see ``runs.queues``. The factory calls this at the end of each DAG."""
    for task in dag.tasks:
        mapped: dict[str, Any] | None = getattr(task, "partial_kwargs", None)
        given = getattr(task, "step", None) if mapped is None else mapped.get("step")
        queue = queue_of(plan, step_name(task.task_id, given))
        if queue is None:
            continue
        if mapped is None:
            task.queue = queue
        else:
            mapped["queue"] = queue
