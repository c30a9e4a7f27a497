"""# Roll back: the application on SQLite again

For the lead or a deputy. Rolls back the run that is **live or in flight**: stops the services, shuts the application out of
the target and keeps its schema under another name, restores the verified backup to the place of the SQLite file, restores
the configuration, starts the services, checks that they are healthy, writes the incident document and posts the notice. It
needs the evidence folder and the plan only, so it works with PostgreSQL down.

**Rows that the application wrote to PostgreSQL since go-live are not in SQLite afterwards.** `open_rollback` reports how
many there are in each table, before anything is stopped. They stay in the kept schema; `keep_target` exports them, one file
per table, into the evidence. Their number is in the report and in the incident document; with PostgreSQL down it is unknown,
and the next run counts and exports them before it begins.

**A SQLite file that holds rows beyond the backup is not replaced**: the application wrote to it since, and goes on with it.
`restore_source` reports the rows of each table. To replace the file all the same, type their number as *Rows to give up*;
the file is kept in the evidence.

A run that has stopped nothing yet, or was rolled back already, is refused: there is nothing to roll back.
"""

from __future__ import annotations

from airflow.sdk import chain

from include.cutover.plan.model import Plan
from include.cutover.steps.close_run import close_rollback
from include.cutover.steps.open_rollback import open_rollback
from include.cutover.tasks import forms, groups, per_plan
from include.cutover.tasks.operators import StepFactory

FORM = {
    "reason": forms.text("Reason", "Why the application goes back to SQLite. It goes into the incident document."),
    "run_id": forms.optional("Run to roll back", "Run id of the cutover; empty means the one that is live or in flight."),
    "give_up_rows": forms.number(
        "Rows to give up",
        "Normally empty. Only when restore_source reported rows beyond the backup in the SQLite file and the backup shall "
        "replace it all the same: the number of these rows.",
    ),
}


def rollback(plan: Plan) -> None:
    """Create the tasks of a rollback that a person triggers."""
    step = StepFactory(plan)
    chain(
        step("open_rollback", open_rollback),
        groups.rollback_group(step),
        step("close_rollback", close_rollback, trigger_rule="all_done"),
    )


globals().update(
    per_plan.dags("rollback", rollback, doc=__doc__, description="Brings {application} back to SQLite", form=FORM)
)
