"""The task groups of the DAGs; a cutover and its rehearsal share most of them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import TaskGroup, chain

from include.cutover.runs import runbook
from include.cutover.runs.terms import RELEASE, ROLLBACK
from include.cutover.steps import finish_target, go_live, preflight, prepare_target, quiesce, rollback, verify
from include.cutover.steps import release as release_steps
from include.cutover.steps.copy_tables import copy
from include.cutover.steps.step import Body
from include.cutover.steps.take_backup import restore_test, snapshot_extras
from include.cutover.tasks.gates import Gate
from include.cutover.tasks.operators import StepFactory, StepOperator
from include.cutover.tasks.plans import task_name


def preflight_group(
    step: StepFactory, *, check_target: Body = preflight.check_target, check_places: Body = preflight.check_places
) -> TaskGroup:
    """Create the checks that change nothing."""
    with TaskGroup("preflight", tooltip="Check everything; change nothing") as group:
        step("check_target", check_target)
        step("check_source", preflight.check_source)
        step("assess_source", preflight.assess_source)
        step("check_places", check_places)
    return group


def prepare_group(step: StepFactory) -> TaskGroup:
    """Create the steps that create the empty tables."""
    with TaskGroup("prepare_target", tooltip="Create the empty tables") as group:
        chain(
            step("apply_ddl", prepare_target.apply_ddl),
            step("apply_migrations", prepare_target.apply_migrations),
        )
    return group


def quiesce_group(step: StepFactory) -> TaskGroup:
    """Create the steps that begin the downtime."""
    with TaskGroup("quiesce", tooltip="The downtime begins") as group:
        chain(
            step("stop_services", quiesce.stop_services),
            step("fence_source", quiesce.fence_source),
        )
    return group


def move_and_prove(step: StepFactory, take_backup: Any) -> list[Any]:
    """Create the steps that copy from the backup, finish the target and prove it; restore test and extras run beside them.

    Args:
        step: Makes the tasks.
        take_backup: The task that takes the backup.

    Returns:
        The tasks and groups that must have ended before a decision.
    """
    restore = step("restore_test", restore_test)
    extras = step.if_planned("snapshot_extras", snapshot_extras)
    proof = _verify_group(step)
    chain(take_backup, _copy_group(step), _finish_group(step), proof)
    chain(take_backup, [restore, *extras])
    return [proof, restore, *extras]


def _copy_group(step: StepFactory) -> TaskGroup:
    with TaskGroup("copy", tooltip="One task for each table") as group:
        for table, settings in step.plan.tables.items():
            name = f"{runbook.COPY}.{table}"
            if settings.streams == 1:
                step(task_name(table), copy, step=name, arguments={"table": table}, retries=2)
            else:  # a table that is worth several streams takes longest, so it goes first
                streams = [{"table": table, "stream": stream} for stream in range(settings.streams)]
                step.mapped(task_name(table), copy, streams, step=name, priority_weight=100, retries=2)
    return group


def _finish_group(step: StepFactory) -> TaskGroup:
    with TaskGroup("finish_target", tooltip="Keys, indexes and more, faster and safer after the copy") as group:
        chain(
            step("build_keys_and_indexes", finish_target.build_keys_and_indexes),
            step("load_reference_data", finish_target.load_reference_data),
            [
                step("store_quarantine", finish_target.store_quarantine),
                step("declare_foreign_keys", finish_target.declare_foreign_keys),
                step("set_sequences", finish_target.set_sequences),
                step("analyze_tables", finish_target.analyze_tables),
            ],
            # An owner is changed under a lock of the whole table: after all other steps that work on the tables.
            *step.if_planned("grant_access", finish_target.grant_access),
        )
    return group


def _verify_group(step: StepFactory) -> TaskGroup:
    with TaskGroup("verify", tooltip="The proof") as group:
        chain(
            step("check_tables", verify.check_tables),
            step("validate_foreign_keys", verify.validate_foreign_keys),
        )
        step("smoke_test_database", verify.smoke_test_database)
    return group


def go_live_group(step: StepFactory) -> TaskGroup:
    """Create the gate and the steps that end the downtime on PostgreSQL."""
    with TaskGroup("go_live", tooltip="The downtime ends") as group:
        chain(
            Gate(
                task_id="approve",
                plan=step.plan,
                gate="approve",
                question=f"Take {step.plan.application} live on PostgreSQL?",
            ),
            step("switch_configuration", go_live.switch_configuration),
            step("start_services", go_live.start_services),
            step("smoke_test_application", go_live.smoke_test_application),
        )
    return group


def rollback_group(step: StepFactory) -> TaskGroup:
    """Create the way back to SQLite: stop, keep the target, restore, revert, start, check, document, notify.

    The first task runs however the tasks before it ended: a branch task that was killed must not leave the services down.
    """
    return _way_back(
        step, ROLLBACK, rollback.BODIES, "Back to SQLite; needs only the evidence and the plan", first="all_done"
    )


def release_group(step: StepFactory) -> TaskGroup:
    """Create the way back to SQLite where nothing was copied yet."""
    return _way_back(step, RELEASE, release_steps.BODIES, "Nothing was copied: lift the fence, start the services")


def _way_back(
    step: StepFactory, way: str, bodies: dict[str, Body], tooltip: str, *, first: str = "all_success"
) -> TaskGroup:
    with TaskGroup(way, tooltip=tooltip) as group:
        tasks: list[StepOperator] = []
        for row in runbook.way(way):
            trigger_rule = "all_success" if tasks else first
            task_id = row.name.removeprefix(f"{way}.")
            tasks.append(step(task_id, bodies[row.name], step=row.name, trigger_rule=trigger_rule))
        chain(*tasks)
    return group


def rehearsed_way_back_group(step: StepFactory, bodies: dict[str, Body]) -> TaskGroup:
    """Create the way back of a rehearsal, on the clone."""
    return _way_back(step, runbook.REHEARSED_BACK, bodies, "Like a rollback, on the clone")
