"""# Schedule a cutover ahead

For the lead or a deputy. Announces the window immediately, waits without a worker until the change freeze begins, and
then triggers `cutover_<plan>`: that run checks everything and asks its gates during the freeze, freezes plan, SQL and
code only then, and stops nothing before the window begins. It runs in the name of the person who scheduled it.

**To call it off**: trigger this DAG again with *call off* and a reason. People get a notice. The same happens when the
run of this DAG ends in another way before its cutover has opened, and when the cutover refuses to open. A cutover
that has begun is called off by answering its gate with No-go.

The run is green when the cutover has opened; how that ends is in its own report.
"""

from __future__ import annotations

from airflow.sdk import chain

from include.cutover.plan.model import Plan
from include.cutover.steps import schedule as schedule_steps
from include.cutover.tasks import forms, per_plan
from include.cutover.tasks.call import BeginOperator, CallOperator
from include.cutover.tasks.limits import CALLS

FORM = {
    "action": forms.choice(
        "Action",
        "call off: the scheduled cutover does not take place; only the reason is needed then.",
        "schedule",
        "call off",
    ),
    "window_start": forms.window_start(
        "When the services may be stopped. The change freeze begins before, by the plan's minutes."
    ),
    "reason": forms.text("Reason", "Why this cutover, or why not: a ticket or a sentence. It goes into the evidence."),
    "approve": forms.approve("As in cutover_<plan>. With auto no person is asked; only where the plan allows it."),
    "notify": forms.notify(),
}


def schedule(plan: Plan) -> None:
    """Create the tasks of a cutover that begins later."""
    name = plan.name
    chain(
        CallOperator(task_id="open_schedule", plan=name, body=schedule_steps.open_schedule),
        CallOperator(task_id="wait_for_freeze", plan=name, body=schedule_steps.wait_for_freeze),
        BeginOperator(task_id="begin_cutover", plan=name, body=schedule_steps.begin),
        CallOperator(task_id="see_it_open", plan=name, body=schedule_steps.see_it_open, trigger_rule="none_failed"),
        CallOperator(task_id="close_schedule", plan=name, body=schedule_steps.close_schedule, trigger_rule="all_done"),
    )


globals().update(
    per_plan.dags(
        "schedule",
        schedule,
        doc=__doc__,
        description="Announces a cutover of {application} and begins it later",
        form=FORM,
        settings=lambda _: {
            "max_active_runs": 4,  # one waits; another calls it off
            "default_args": {**CALLS, "retries": 2},
        },
    )
)
