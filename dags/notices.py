"""# Notices: read, edit, release or withhold them

For the communicator, the lead and the deputies. **preview** shows every notice of a run, in the log and in the task's
result: what it says, when it goes, who has it. **release** lets one go, with another text where one is given; one that
belongs to later (`freeze`, `delay.half`, `delay.three_quarters`, `deadline`) goes when it is due. **withhold** keeps it
from everybody who has not got it, until it is released after all.

Where the plan says `channels.release: communicator`, each notice is held for `release_minutes` and then goes by itself: a
cutover waits for nobody's text. A notice that somebody has got cannot be changed any more. Who did what stands in the
evidence.

Before a run: `python -m include.cutover notices --plan <plan>` shows all of its notices.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, get_parsing_context

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps.edit_notice import edit_notice
from include.cutover.tasks.call import CallOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FORM = {
    "action": Param(
        "preview",
        type="string",
        enum=["preview", "release", "withhold"],
        title="What to do",
        description="preview only shows; release and withhold concern the notice named below.",
    ),
    "notice": Param(
        None,
        type=["null", "string"],
        maxLength=40,
        title="Notice",
        description="start, freeze, delay.half, delay.three_quarters, deadline, completion, rollback or cancelled; "
        "the preview tells which there are.",
    ),
    "text": Param(
        None,
        type=["null", "string"],
        maxLength=4000,
        title="Text",
        description="What it says instead; empty: as it is written. <reason> becomes what is still left, where the clock "
        "sends it.",
    ),
    "run": Param(
        None,
        type=["null", "string"],
        maxLength=250,
        title="Run",
        description="Run id of the cutover or of the schedule; empty means what is scheduled, else the newest run.",
    ),
}


def notices_dag(plan: Plan) -> DAG:
    """The communicator's form of one plan."""
    with DAG(
        dag_id=f"notices_{plan.name}",
        description=f"Edits and releases the notices of {plan.application}",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["notices", plan.name],
    ) as dag:
        CallOperator(
            task_id="edit_notice",
            plan=plan.name,
            body=edit_notice,
            retries=1,
            retry_delay=timedelta(seconds=2),
            execution_timeout=timedelta(minutes=5),
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"notices_{_file.stem}"):
        continue
    try:
        _dag = notices_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
