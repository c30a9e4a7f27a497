"""# Aftercare: the application on PostgreSQL, looked at through its first hour

Triggered by a cutover that went live, for the time that the plan says (`aftercare.minutes`, an hour by default). Nobody
has to start it; where triggering failed, trigger it with the run id of the cutover.

| part | what it does |
|---|---|
| `open_aftercare` | reads from the evidence where logs, statistics and scheduled jobs stood before |
| `look` | every few minutes: health, latency, the services' logs, PostgreSQL's statistics, scheduled jobs, sequences |
| `first_backup` | pg_dump, restored into a scratch database and compared, which is dropped |
| `ask_1`, `ask_2`, … | wait for something red; then the lead or a deputy is asked whether to roll back |
| `start_rollback` | triggers `rollback_<plan>` when somebody entitled said so, with that person's name |
| `close_aftercare` | the closing notice and the post-cutover report |

While it waits it holds no worker; Airflow shows that as `up_for_reschedule`. **No answer means that the application
stays live**; the lead is told, and the next red look asks again. To go back at any time, trigger `rollback_<plan>`.

A run is green only when every look was green and everything could be looked at. The tab *Cutover report* leads to what was
found.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, get_parsing_context
from airflow.sdk.bases.operator import chain

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps import aftercare as steps
from include.cutover.tasks.aftercare import AftercareOperator, RollbackQuestion, StartRollback
from include.cutover.tasks.limits import PATIENCE, STEP_TIME
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FORM = {
    "run_id": Param(
        type="string",
        minLength=1,
        maxLength=250,
        title="Run to look after",
        description="Run id of the cutover, which must be live.",
    ),
}


def aftercare_dag(plan: Plan) -> DAG:
    """The aftercare of one plan."""
    settings = plan.aftercare
    with DAG(
        dag_id=f"aftercare_{plan.name}",
        description=f"Looks after {plan.application} on PostgreSQL",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=4,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["aftercare", plan.name],
        default_args={"retries": 1, "retry_delay": timedelta(seconds=2), "execution_timeout": STEP_TIME},
    ) as dag:
        opened = AftercareOperator(
            task_id="open_aftercare",
            plan=plan.name,
            body=steps.begin,
            retries=3,
            execution_timeout=timedelta(minutes=plan.window.minutes) + STEP_TIME,  # it may read a whole table's times
        )
        # A try that is killed goes on where the last recorded look was.
        looks = AftercareOperator(task_id="look", plan=plan.name, body=steps.look, **{**PATIENCE, "retries": 10})
        questions = [
            RollbackQuestion(task_id=f"ask_{number}", plan=plan, execution_timeout=STEP_TIME)
            for number in range(1, settings.questions + 1)
        ]
        close = AftercareOperator(
            task_id="close_aftercare", plan=plan.name, body=steps.close, trigger_rule="all_done", **PATIENCE
        )
        start_rollback = StartRollback(task_id="start_rollback", plan=plan.name, trigger_rule="all_done", retries=3)
        chain(opened, looks, close)
        chain(opened, *questions, start_rollback, close)
        if settings.first_backup.wanted:
            backup = AftercareOperator(
                task_id="first_backup",
                plan=plan.name,
                body=steps.first_backup,
                execution_timeout=timedelta(minutes=2 * settings.first_backup.minutes) + STEP_TIME,
            )
            chain(opened, backup, close)
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"aftercare_{_file.stem}"):
        continue
    try:
        _dag = aftercare_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
