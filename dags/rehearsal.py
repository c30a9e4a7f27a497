"""# Rehearsal: the cutover on a copy, and the way back

For the lead or a deputy, as often as wanted, best on the day before. Nothing is stopped and no notice is sent: a **clone
of the live file**, taken atomically, is moved into a **disposable database** on the target's server, with the steps of the
cutover itself. Services, configuration, the live file's fence, the target's own database and the lease of the cutovers are
not changed.

| part | what it does |
|---|---|
| `create_database`, `clone_source` | removes what earlier rehearsals kept, creates the database, clones the live file |
| `preflight` | checks the target, the clone, the services and the places, as the cutover will |
| `prepare_target`, `fence_source`, `take_backup` | tables; fence and backup of the clone, in the rehearsal's folder |
| `copy`, `finish_target`, `verify`, `mark_target` | copies, builds keys, proves equal content |
| `way_back` | sets the schema aside, restores the backup to the place of the clone, and proves that it is the backup |
| `close_rehearsal` | judges by the evidence; green only when everything passed |

**Green**: database, clone and backups are removed. **Red**: they are kept until the next rehearsal and named in the report;
tick *Keep earlier rehearsals* to keep them longer.

Every cutover shows the last rehearsal before go/no-go: when, on which schema and plan, with which result, what changed
since, and the downtime to expect. With `require_rehearsal: true` in the plan a cutover is refused without a green rehearsal
of the same schema, plan, SQL and code, at most `rehearsal_days` old.

A rehearsal is refused while a cutover of the plan is open. A cutover that opens meanwhile is not held up: the rehearsal
stops and ends red with its next step. The role of the pipeline needs `CREATEDB`. Reading the live file costs the
application no more than the assessment does: in WAL mode its writers do not wait, in delete mode for the length of one copy.
"""

from __future__ import annotations

from airflow.sdk import chain

from include.cutover.plan.model import Plan
from include.cutover.steps import rehearse
from include.cutover.steps.announce import announce
from include.cutover.steps.go_live import mark_target
from include.cutover.steps.quiesce import fence_source
from include.cutover.tasks import forms, groups, per_plan
from include.cutover.tasks.operators import StepFactory
from include.cutover.tasks.rehearsals import RehearsalOperator

FORM = {
    "reason": forms.text("Reason", "Why this rehearsal; it goes into its report.", default="a rehearsal"),
    "keep_earlier": forms.tick(
        "Keep earlier rehearsals",
        "Off: databases and files that red rehearsals kept are removed first. On: they are named in the report.",
        default=False,
    ),
}


def rehearsal(plan: Plan) -> None:
    """Create the tasks of a rehearsal."""
    step = StepFactory(plan, RehearsalOperator)
    backup = step("take_backup", rehearse.take_backup)
    chain(
        step("open_rehearsal", rehearse.open_rehearsal),
        step("create_database", rehearse.create_database),
        step("clone_source", rehearse.clone_source),
        step("announce_start", announce, arguments={"notice": "start"}),
        groups.preflight_group(step, check_target=rehearse.check_target, check_places=rehearse.check_places),
        groups.prepare_group(step),
        step("fence_source", fence_source),
        backup,
    )
    chain(
        groups.move_and_prove(step, backup),
        step("mark_target", mark_target),
        groups.rehearsed_way_back_group(step, rehearse.BODIES),
        step("announce_completion", announce, arguments={"notice": "completion"}),
        step("close_rehearsal", rehearse.close_rehearsal, trigger_rule="all_done"),
    )


globals().update(
    per_plan.dags(
        "rehearsal",
        rehearsal,
        doc=__doc__,
        description="Rehearses the move of {application} on a copy, and the way back",
        form=FORM,
    )
)
