"""# Retention: archive and remove backups and kept schemas of old runs

Every day. Backups of SQLite are compressed after `retention.archive_days`, the archive is verified before the file is
removed, and removed after `retention.backup_days`; the schemas that rolled-back runs left in PostgreSQL are dropped after
`retention.kept_target_days`. Evidence is never removed.

Nothing is removed of a run that is open, whose way back is not complete, whose incident is not closed, or whose aftercare
is not over, and never the only valid backup. A link, or a file that differs from its record, is left and makes the task red.

*Dry run* in the form changes nothing and lists in the logs what would be done. The same without Airflow:
`python -m include.cutover retention --plan <plan> --dry-run`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import chain

from include.cutover.plan.model import Plan
from include.cutover.steps.retention import archive_backups, drop_kept_targets, remove_backups
from include.cutover.tasks import forms, per_plan
from include.cutover.tasks.limits import NIGHTLY
from include.cutover.tasks.operators import StepFactory
from include.cutover.tasks.retention import RetentionOperator

FORM = {
    "dry_run": forms.tick("Dry run", "Change nothing; the tasks' logs list what would be done.", default=False),
}


def retention(plan: Plan) -> None:
    """Create the tasks of the retention."""
    step = StepFactory(plan, RetentionOperator)
    chain(
        step("archive_backups", archive_backups),
        step("remove_backups", remove_backups),
        step("drop_kept_targets", drop_kept_targets),
    )


globals().update(
    per_plan.dags(
        "retention",
        retention,
        doc=__doc__,
        description="Archives and removes backups and kept schemas of old cutovers of {application}",
        form=FORM,
        settings=lambda plan: {
            "schedule": f"17 {plan.retention.hour} * * *" if plan.retention.enabled else None,
            "start_date": datetime(2025, 1, 1, tzinfo=UTC),
            "catchup": False,
            "default_args": {**NIGHTLY, "trigger_rule": "all_done"},
        },
    )
)
