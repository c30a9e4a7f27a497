"""# Aftercare: watches the application through its first hour on PostgreSQL

Triggered by a cutover that went live, for the time that the plan says (`aftercare.minutes`, an hour by default). It
starts by itself; where triggering failed, trigger it with the run id of the cutover.

| part | what it does |
|---|---|
| `open_aftercare` | reads the state of logs, statistics and scheduled jobs before go-live from the evidence |
| `look` | every few minutes: health, latency, the services' logs, PostgreSQL's statistics, scheduled jobs, sequences |
| `first_backup` | pg_dump, restored into a scratch database, compared; the scratch database is dropped |
| `ask_1`, `ask_2`, … | wait for a red check; then ask the lead and the deputies whether to roll back |
| `start_rollback` | triggers `rollback_<plan>` when one of them answered so, with that person's name |
| `close_aftercare` | the closing notice and the post-cutover report |

While it waits it holds no worker; Airflow shows that as `up_for_reschedule`. **No answer means that the application
stays live**; the lead gets a notice, and the next red round asks again. To go back at any time, trigger `rollback_<plan>`.

A run is green only when every round was green and every check could be made. The tab *Cutover report* shows the findings.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, chain

from include.cutover.plan.model import Plan
from include.cutover.steps.aftercare.close_aftercare import close_aftercare
from include.cutover.steps.aftercare.first_backup import first_backup
from include.cutover.steps.aftercare.look import look
from include.cutover.steps.aftercare.open_aftercare import open_aftercare
from include.cutover.tasks import per_plan
from include.cutover.tasks.aftercare import AftercareOperator, RollbackQuestion, StartRollback
from include.cutover.tasks.limits import PATIENCE, STEP_TIME
from include.cutover.tasks.operators import StepFactory

FORM = {
    "run_id": Param(
        type="string",
        minLength=1,
        maxLength=250,
        title="Run to watch",
        description="Run id of the cutover, which must be live.",
    ),
}


def aftercare(plan: Plan) -> None:
    """Create the tasks of the aftercare."""
    step = StepFactory(plan, AftercareOperator)
    opened = step(
        "open_aftercare",
        open_aftercare,
        retries=3,
        execution_timeout=timedelta(minutes=plan.window.minutes) + STEP_TIME,  # it may read the times of a whole table
    )
    # A killed try continues after the last recorded round.
    looks = step("look", look, **{**PATIENCE, "retries": 10})
    questions = [RollbackQuestion(task_id=f"ask_{number}", plan=plan) for number in range(1, plan.aftercare.questions + 1)]
    start_rollback = StartRollback(task_id="start_rollback", plan=plan.name, trigger_rule="all_done", retries=3)
    close = step("close_aftercare", close_aftercare, trigger_rule="all_done", **PATIENCE)
    backup_time = timedelta(minutes=2 * plan.aftercare.first_backup.minutes) + STEP_TIME
    backup = step.if_planned("first_backup", first_backup, execution_timeout=backup_time)
    chain(opened, looks, close)
    chain(opened, *questions, start_rollback, close)
    if backup:
        chain(opened, *backup, close)


globals().update(
    per_plan.dags(
        "aftercare",
        aftercare,
        doc=__doc__,
        description="Watches {application} on PostgreSQL",
        form=FORM,
        settings=lambda _: {"max_active_runs": 4},
    )
)
