"""# Close the incident of a run

For the lead or a deputy. A cutover that ended **rolled back** or **released** leaves an incident, and no new cutover opens
before it is closed: with its cause, what was corrected, and a reference to where the rest can be read. A run whose way back
is not complete must be brought to its end first, with `rollback_<plan>`.

What was kept for the inquiry (the SQLite file as it was found, the target's schema, rows written after go-live, the logs of
the services, the incident document) is listed in the report of that run, in the refusal of the new run, and by
`python -m include.cutover incident show --plan NAME`.

The words go into the evidence of the run, in the name of whoever triggered this DAG. Nothing else is changed.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, get_parsing_context

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.tasks.incidents import CloseIncidentOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues


def _text(title: str, description: str) -> Param:
    return Param(type="string", minLength=3, maxLength=4000, title=title, description=description)


FORM = {
    "cause": _text("Cause", "What went wrong, and why the checks before the window did not find it."),
    "fix": _text("Fix", "What was corrected, where and by whom; what becomes of the kept data."),
    "reference": _text("Reference", "Where the rest can be read: a ticket, a post-mortem."),
    "run_id": Param(
        None,
        type=["null", "string"],
        maxLength=250,
        title="Run",
        description="Run id of the cutover; empty means the one whose incident is open.",
    ),
}


def incident_dag(plan: Plan) -> DAG:
    """Closing incidents of one plan."""
    with DAG(
        dag_id=f"incident_{plan.name}",
        description=f"Closes the incident of a cutover of {plan.application} that did not end live",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["incident", plan.name],
    ) as dag:
        CloseIncidentOperator(task_id="close_incident", plan=plan.name, retries=0, execution_timeout=timedelta(minutes=5))
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"incident_{_file.stem}"):
        continue
    try:
        _dag = incident_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
