"""The groups that a cutover and its rehearsal share: looking, making the tables, copying, proving."""

from __future__ import annotations

from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.bases.operator import chain

from include.cutover.plan.model import Plan
from include.cutover.steps import copy_tables, rollback
from include.cutover.steps import finish_target as finish_target_steps
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps import prepare_target as prepare_target_steps
from include.cutover.steps import take_backup as take_backup_steps
from include.cutover.steps import verify as steps_verify
from include.cutover.steps.step import Body, Terms
from include.cutover.tasks.limits import PATIENCE, time_for_data
from include.cutover.tasks.operators import StepOperator
from include.cutover.tasks.plans import task_name


def preflight_group(
    plan: Plan,
    operator: type[StepOperator] = StepOperator,
    *,
    check_target: Body = preflight_steps.check_target,
    check_places: Body = preflight_steps.check_places,
) -> TaskGroup:
    """Look at everything; change nothing."""
    moves_data = time_for_data(plan)
    with TaskGroup("preflight", tooltip="Look at everything; change nothing") as look:
        operator(task_id="check_target", plan=plan.name, body=check_target)
        operator(task_id="check_source", plan=plan.name, body=preflight_steps.check_source, **moves_data)
        operator(task_id="assess_source", plan=plan.name, body=preflight_steps.assess_source, **moves_data)
        operator(task_id="check_places", plan=plan.name, body=check_places)
    return look


def prepare_group(plan: Plan, operator: type[StepOperator] = StepOperator) -> TaskGroup:
    """Make the empty tables."""
    with TaskGroup("prepare_target", tooltip="Make the empty tables") as prepare_target:
        chain(
            operator(task_id="apply_ddl", plan=plan.name, body=prepare_target_steps.apply_ddl),
            operator(task_id="apply_migrations", plan=plan.name, body=prepare_target_steps.apply_migrations),
        )
    return prepare_target


def move_and_prove(plan: Plan, take_backup: Any, operator: type[StepOperator] = StepOperator) -> list[Any]:
    """Copy from the backup, finish the target, prove it; the restore test and the extras beside it.

    Args:
        take_backup: The task that takes the backup.

    Returns:
        What must have come to its end before anybody decides.
    """
    moves_data = time_for_data(plan)
    copying = {"retries": 2, "terms": Terms(in_time=True), **moves_data}

    def step(name: str, body: Any, **settings: Any) -> StepOperator:
        return operator(task_id=name, plan=plan.name, body=body, **settings)

    with TaskGroup("copy", tooltip="One task for each table") as copy:
        for table, settings in plan.tables.items():
            # A table that is worth several streams takes longest: it goes first.
            if settings.streams == 1:
                step(task_name(table), copy_tables.copy, step=f"copy.{table}", arguments={"table": table}, **copying)
            else:
                operator.partial(
                    task_id=task_name(table),
                    plan=plan.name,
                    body=copy_tables.copy,
                    step=f"copy.{table}",
                    priority_weight=100,
                    **copying,
                ).expand(arguments=[{"table": table, "stream": stream} for stream in range(settings.streams)])

    restore_test = step("restore_test", take_backup_steps.restore_test, **moves_data)

    extras = [step("snapshot_extras", take_backup_steps.snapshot_extras, **moves_data)] if plan.extras.wanted else []

    with TaskGroup("finish_target", tooltip="What is faster and safer after the load") as finish_target:
        reference = step("load_reference_data", finish_target_steps.load_reference_data)
        chain(
            step("build_keys_and_indexes", finish_target_steps.build_keys_and_indexes, **moves_data),
            reference,
            [
                step("store_quarantine", finish_target_steps.store_quarantine),
                step("declare_foreign_keys", finish_target_steps.declare_foreign_keys),
                step("set_sequences", finish_target_steps.set_sequences),
                step("analyze_tables", finish_target_steps.analyze_tables, **moves_data),
            ],
            # An owner is changed under a lock of the whole table: after everything else that works on them.
            *([step("grant_access", finish_target_steps.grant_access)] if plan.access is not None else []),
        )

    with TaskGroup("verify", tooltip="The proof") as verify:
        check_tables = step("check_tables", steps_verify.check_tables, **moves_data)
        validate = step("validate_foreign_keys", steps_verify.validate_foreign_keys, **moves_data)
        chain(check_tables, validate)
        step("smoke_test_database", steps_verify.smoke_test_database)

    chain(take_backup, copy, finish_target, verify)
    chain(take_backup, [restore_test, *extras])
    return [verify, restore_test, *extras]


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
