"""# Close the incident of a run

For the lead or a deputy. A cutover that ended **rolled back** or **released** leaves an incident, and no new cutover opens
before it is closed: with its cause, the correction, and a reference to more. A run whose way back is not complete must be
completed first, with `rollback_<plan>`.

Everything kept for the inquiry (the SQLite file as it was found, the target's schema, rows written after go-live, the logs
of the services, the incident document) is listed in the report of that run, in the refusal of the new run, and by
`python -m include.cutover incident show --plan NAME`.

The texts go into the evidence of the run, in the name of the Airflow user who triggered this DAG. Nothing else is changed.
"""

from __future__ import annotations

from include.cutover.plan.model import Plan
from include.cutover.tasks import forms, per_plan
from include.cutover.tasks.incidents import CloseIncidentOperator
from include.cutover.tasks.limits import CALLS

FORM = {
    "cause": forms.text("Cause", "What went wrong, and why the checks before the window did not find it.", longest=4000),
    "fix": forms.text("Fix", "The correction: what, where and by whom; and what happens to the kept data.", longest=4000),
    "reference": forms.text("Reference", "Where to read more: a ticket, a post-mortem.", longest=4000),
    "run_id": forms.optional("Run", "Run id of the cutover; empty means the one whose incident is open."),
}


def incident(plan: Plan) -> None:
    """Create the task that closes an incident."""
    CloseIncidentOperator(task_id="close_incident", plan=plan.name)


globals().update(
    per_plan.dags(
        "incident",
        incident,
        doc=__doc__,
        description="Closes the incident of a cutover of {application} that did not end live",
        form=FORM,
        settings=lambda _: {"default_args": {**CALLS, "retries": 0}},
    )
)
