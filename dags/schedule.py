"""# Schedule a cutover ahead

For the lead or a deputy. Announces the window at once, waits without holding a worker until the change freeze begins, and
then triggers `cutover_<plan>`: that run checks everything and asks its gates during the freeze, freezes plan, SQL and
code only then, and stops nothing before the window begins. It counts as started by the person who scheduled it.

**To call it off**: trigger this DAG again with *call off* and a reason. People get a notice. The same happens when the
run of this DAG is ended in another way before its cutover has opened, and when the cutover refuses to open. A cutover
that has begun is called off by answering its gate with No-go.

The run is green when the cutover has opened; what becomes of that one is told by its own report.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, get_parsing_context
from airflow.sdk.bases.operator import chain

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps import schedule as schedule_steps
from include.cutover.tasks.call import BeginOperator, CallOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FORM = {
    "action": Param(
        "schedule",
        type="string",
        enum=["schedule", "call off"],
        title="What to do",
        description="call off: what is scheduled does not take place; only the reason is needed then.",
    ),
    "window_start": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Start of the window",
        description="When the services may be stopped. The change freeze begins before, by the plan's minutes.",
    ),
    "reason": Param(
        type="string",
        minLength=3,
        maxLength=500,
        title="Reason",
        description="Why this cutover, or why not: a ticket or a sentence. It stands in the evidence.",
    ),
    "approve": Param(
        "ask",
        type="string",
        enum=["ask", "auto"],
        title="Approval",
        description="As in cutover_<plan>. With auto nobody is asked; only where the plan allows it.",
    ),
    "notify": Param(
        True,
        type="boolean",
        title="Send notices",
        description="Off: notices are written into the evidence only.",
    ),
}


def schedule_dag(plan: Plan) -> DAG:
    """The cutovers of one plan that begin later."""

    def call(name: str, body: Any, operator: type[CallOperator] = CallOperator, **settings: Any) -> CallOperator:
        return operator(task_id=name, plan=plan.name, body=body, **settings)

    with DAG(
        dag_id=f"schedule_{plan.name}",
        description=f"Announces a cutover of {plan.application} and begins it later",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=4,  # one waits; another calls it off
        is_paused_upon_creation=False,
        params=FORM,
        tags=["schedule", plan.name],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=2), "execution_timeout": timedelta(minutes=5)},
    ) as dag:
        chain(
            call("open_schedule", schedule_steps.open_schedule),
            call("wait_for_freeze", schedule_steps.wait_for_freeze),
            call("begin_cutover", schedule_steps.begin, BeginOperator),
            call("see_it_open", schedule_steps.see_it_open, trigger_rule="none_failed"),
            call("close_schedule", schedule_steps.close_schedule, trigger_rule="all_done"),
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"schedule_{_file.stem}"):
        continue
    try:
        _dag = schedule_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
