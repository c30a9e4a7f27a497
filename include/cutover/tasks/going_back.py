"""The rollback group, made in one place for the cutover itself and for the manual rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.bases.operator import chain

from include.cutover.plan import Plan
from include.cutover.steps import back
from include.cutover.steps.step import Terms
from include.cutover.tasks.operators import StepOperator

STEP_TIME = timedelta(minutes=15)
"""After which a step is ended that moves no data; it hangs then."""

PATIENCE: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=2),
    "execution_timeout": STEP_TIME,
}

WAY_BACK: dict[str, Any] = {**PATIENCE, "terms": Terms(way_back=True)}
"""For every step that must run whatever happened before it."""


def time_for_data(plan: Plan) -> dict[str, Any]:
    """Settings of a step that reads or writes all rows: it may take the whole window, and is ended after that."""
    return {"execution_timeout": max(STEP_TIME, timedelta(minutes=plan.window.minutes))}


def rollback_group(plan: Plan) -> TaskGroup:
    """Back to SQLite: stop, keep the target, restore, revert, start, look, write down, tell.

    The first task runs whatever became of what is before it: a branch task that was killed must not leave the services down.
    """
    with TaskGroup("rollback", tooltip="Back to SQLite; needs only the evidence and the plan") as group:
        steps = [
            StepOperator(
                task_id=name,
                plan=plan.name,
                step=f"rollback.{name}",
                body=body,
                trigger_rule="all_done" if name == "stop_services" else "all_success",
                **WAY_BACK | (time_for_data(plan) if name in ("keep_target", "restore_source") else {}),
            )
            for name, body in back.ROLLBACK
        ]
        chain(*steps)
    return group
