"""# Roll back: the application on SQLite again

For the lead or a deputy. Rolls back the run that is **live or in flight**: stops the services, shuts the application out of
the target and keeps its schema under another name, puts the verified backup in the place of the SQLite file, brings the
configuration back, starts the services, looks whether they are healthy, writes the incident document and tells people. It
needs the evidence folder and the plan only, so it works with PostgreSQL down.

**Rows that the application wrote to PostgreSQL since go-live are not in SQLite afterwards.** `open_rollback` tells how many
there are in each table, before anything is stopped. They stay in the kept schema; `keep_target` exports them, one file per
table, into the evidence. Their number is in the report and in the incident document; with PostgreSQL down it is unknown, and
the next run counts and exports them before it begins.

A run that has stopped nothing yet, or was rolled back already, is refused: there is nothing to roll back.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, get_parsing_context
from airflow.sdk.bases.operator import chain

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps import close_run, rollback
from include.cutover.steps.step import Terms
from include.cutover.tasks.groups import rollback_group
from include.cutover.tasks.limits import PATIENCE, STEP_TIME
from include.cutover.tasks.operators import StepOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FORM = {
    "reason": Param(
        type="string",
        minLength=3,
        maxLength=500,
        title="Reason",
        description="Why the application goes back to SQLite. It stands in the incident document.",
    ),
    "run_id": Param(
        None,
        type=["null", "string"],
        maxLength=250,
        title="Run to roll back",
        description="Run id of the cutover; empty means the one that is live or in flight.",
    ),
}


def rollback_dag(plan: Plan) -> DAG:
    """The manual rollback of one plan."""
    with DAG(
        dag_id=f"rollback_{plan.name}",
        description=f"Brings {plan.application} back to SQLite",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["rollback", plan.name],
        default_args={"retries": 1, "retry_delay": timedelta(seconds=2), "execution_timeout": STEP_TIME},
    ) as dag:
        chain(
            StepOperator(
                task_id="open_rollback", plan=plan.name, body=rollback.open_rollback, terms=Terms(opens=True), **PATIENCE
            ),
            rollback_group(plan),
            StepOperator(
                task_id="close_rollback",
                plan=plan.name,
                body=close_run.close_rollback,
                terms=Terms(closes=True),
                trigger_rule="all_done",
            ),
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"rollback_{_file.stem}"):
        continue
    try:
        _dag = rollback_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
