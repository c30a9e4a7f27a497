"""The rollback group, made in one place for the cutover itself and for the manual rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.bases.operator import chain

from include.cutover.tasks import back
from include.cutover.tasks.step import StepOperator

PATIENCE: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=2),
    "execution_timeout": timedelta(minutes=10),
}


def rollback_group(plan: str) -> TaskGroup:
    """Back to SQLite: stop, keep the target, restore, revert, start, look, write down, tell.

    The first task runs whatever became of what is before it: a branch task that was killed must not leave the services down.
    """
    with TaskGroup("rollback", tooltip="Back to SQLite; needs only the evidence and the plan") as group:
        steps = [
            StepOperator(
                task_id=name,
                plan=plan,
                step=f"rollback.{name}",
                body=body,
                trigger_rule="all_done" if name == "stop_services" else "all_success",
                **PATIENCE,
            )
            for name, body in (
                ("stop_services", back.stop_services),
                ("keep_target", back.keep_target),
                ("restore_source", back.restore_source),
                ("revert_configuration", back.revert_configuration),
                ("start_services", back.start_services),
                ("check_health", back.check_health),
                ("write_incident", back.write_incident),
                ("announce_rollback", back.announce_rollback),
            )
        ]
        chain(*steps)
    return group
