"""# Outbox: notices that still have to reach somebody

Every minute, and mostly with nothing to do. Sends the notices of this plan's runs that a channel missed, that have fallen
due (change freeze, half time, three quarters, deadline) or that the communicator has released: once per channel, and less
often the more often a channel fails. After a day it gives up; the run's report shows what did not arrive. It is safe to
pause it: each step of a cutover sends what waits, too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, get_parsing_context

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps.send_pending import send_pending
from include.cutover.tasks.call import CallOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues


def outbox_dag(plan: Plan) -> DAG:
    """The outbox of one plan."""
    with DAG(
        dag_id=f"outbox_{plan.name}",
        description=f"Sends the notices of {plan.application} that still have to reach somebody",
        doc_md=__doc__,
        schedule="* * * * *",
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=["outbox", plan.name],
    ) as dag:
        CallOperator(
            task_id="send_pending",
            plan=plan.name,
            body=send_pending,
            retries=0,
            execution_timeout=timedelta(minutes=5),
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"outbox_{_file.stem}"):
        continue
    try:
        _dag = outbox_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
