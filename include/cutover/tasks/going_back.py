"""The rollback group, made in one place for the cutover itself and for the manual rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.bases.operator import chain

from include.cutover.plan.model import Plan
from include.cutover.steps import rollback
from include.cutover.steps.step import Terms
from include.cutover.tasks.operators import StepOperator

STEP_TIME = timedelta(minutes=15)
"""After which a step is ended that moves no data; it hangs then."""

PATIENCE: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=2),
    "execution_timeout": STEP_TIME,
}


def way_back(course: str) -> dict[str, Any]:
    """For a step that must run whatever happened before it, once the run goes that way; empty for any way."""
    return {**PATIENCE, "terms": Terms(way_back=True, course=(course,) if course else ())}


def time_for_data(plan: Plan) -> dict[str, Any]:
    """Settings of a step that reads or writes all rows: it may take the whole window, and is ended after that."""
    return {"execution_timeout": max(STEP_TIME, timedelta(minutes=plan.window.minutes))}


def rollback_group(plan: Plan) -> TaskGroup:
    """Back to SQLite: stop, keep the target, restore, revert, start, look, write down, tell.

    The first task runs whatever became of what is before it: a branch task that was killed must not leave the services down.
    """
    return _group(plan, "rollback", "Back to SQLite; needs only the evidence and the plan", trigger_rule="all_done")


def release_group(plan: Plan) -> TaskGroup:
    """Back to SQLite where nothing was copied yet."""
    return _group(plan, "release", "Nothing was copied: lift the fence, start the services")


def _group(plan: Plan, name: str, tooltip: str, trigger_rule: str = "all_success") -> TaskGroup:
    with TaskGroup(name, tooltip=tooltip) as group:
        steps = [
            StepOperator(
                task_id=step,
                plan=plan.name,
                step=f"{name}.{step}",
                body=body,
                terms=terms,
                trigger_rule="all_success" if terms.in_turn else trigger_rule,
                **PATIENCE | (time_for_data(plan) if step in ("keep_target", "restore_source") else {}),
            )
            for step, body, terms in rollback.way_back(name)
        ]
        chain(*steps)
    return group
