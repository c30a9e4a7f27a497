"""# Retention: what old runs left behind

Every day. Backups of SQLite are compressed after `retention.archive_days`, the archive is proven before the file goes, and
removed after `retention.backup_days`; the schemas that rolled-back runs left in PostgreSQL are dropped after
`retention.kept_target_days`. Evidence is never removed.

Nothing goes of a run that is open, whose way back is not complete, whose incident is not closed, or whose aftercare still
looks, and never the only valid backup. What is a link, or not what was recorded, is left and makes the task red.

*Dry run* in the form changes nothing and says in the logs what would be done. The same without Airflow:
`python -m include.cutover retention --plan <plan> --dry-run`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, get_parsing_context
from airflow.sdk.bases.operator import chain

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps import retention as steps
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues
from include.cutover.tasks.retention import RetentionOperator

FORM = {
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Change nothing; the tasks' logs say what would be done.",
    ),
}


def retention_dag(plan: Plan) -> DAG:
    """The retention of one plan."""
    with DAG(
        dag_id=f"retention_{plan.name}",
        description=f"Archives and removes what old cutovers of {plan.application} left behind",
        doc_md=__doc__,
        schedule=f"17 {plan.retention.hour} * * *" if plan.retention.enabled else None,
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["retention", plan.name],
        default_args={
            "retries": 1,
            "retry_delay": timedelta(minutes=1),
            "execution_timeout": timedelta(hours=4),  # nobody waits for it, and backups may be large
            "trigger_rule": "all_done",
        },
    ) as dag:
        chain(
            *(
                RetentionOperator(task_id=body.__name__, plan=plan.name, body=body)
                for body in (steps.archive_backups, steps.remove_backups, steps.drop_kept_targets)
            )
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"retention_{_file.stem}"):
        continue
    try:
        _dag = retention_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
