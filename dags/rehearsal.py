"""# Rehearsal: the cutover on a copy, and the way back

For the lead or a deputy, as often as wanted, best on the day before. Nothing is stopped and nobody is told: a **clone of
the live file**, taken in one step, is moved into a **disposable database** on the target's server, with the steps of the
cutover itself. Services, configuration, the live file's fence, the target's own database and the lease of the cutovers are
left alone.

| part | what it does |
|---|---|
| `create_database`, `clone_source` | removes what earlier rehearsals kept, makes the database, clones the live file |
| `preflight` | looks at the target, the clone, the services and the places, as the cutover will |
| `prepare_target`, `fence_source`, `take_backup` | tables; fence and backup of the clone, in the rehearsal's folder |
| `copy`, `finish_target`, `verify`, `mark_target` | copies, builds keys, proves equal content |
| `way_back` | puts the schema aside and the backup back into the place of the clone, and proves it is the backup |
| `close_rehearsal` | judges by the evidence; green only when everything passed |

**Green**: database, clone and backups are gone again. **Red**: they are kept until the next rehearsal and named in the
report; tick *Keep what earlier rehearsals left* to keep them longer.

Every cutover shows the last rehearsal before go/no-go: when, on which schema and plan, with which result, what changed
since, and the downtime to expect. With `require_rehearsal: true` in the plan there is no cutover without a green one of the
same schema, plan, SQL and code, at most `rehearsal_days` old.

A rehearsal is refused while a cutover of the plan is open. A cutover that opens meanwhile is not held up: the rehearsal ends
red with the next of its steps, having given way. The role of the pipeline needs `CREATEDB`. Reading the live file costs the
application no more than the assessment does: in WAL mode its writers do not wait, in delete mode for the length of one copy.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup, get_parsing_context
from airflow.sdk.bases.operator import chain

from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.steps import announce as announce_steps
from include.cutover.steps import go_live, quiesce, rehearse
from include.cutover.steps.step import Terms
from include.cutover.tasks.groups import move_and_prove, preflight_group, prepare_group
from include.cutover.tasks.limits import STEP_TIME, time_for_data
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues
from include.cutover.tasks.rehearsals import RehearsalOperator

FORM = {
    "reason": Param(
        "a rehearsal",
        type="string",
        minLength=3,
        maxLength=500,
        title="Reason",
        description="Why this rehearsal; it stands in its report.",
    ),
    "keep_earlier": Param(
        False,
        type="boolean",
        title="Keep what earlier rehearsals left",
        description="Off: databases and files that red rehearsals kept are removed first. On: they are named in the report.",
    ),
}


def rehearsal_dag(plan: Plan) -> DAG:
    """The rehearsal of one plan."""
    moves_data = time_for_data(plan)

    def step(name: str, body: Any, **settings: Any) -> RehearsalOperator:
        return RehearsalOperator(task_id=name, plan=plan.name, body=body, **settings)

    with DAG(
        dag_id=f"rehearsal_{plan.name}",
        description=f"Tries the move of {plan.application} on a copy, and the way back",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=FORM,
        tags=["rehearsal", plan.name],
        default_args={"retries": 1, "retry_delay": timedelta(seconds=2), "execution_timeout": STEP_TIME},
    ) as dag:
        take_backup = step("take_backup", rehearse.take_backup, **moves_data)
        chain(
            step("open_rehearsal", rehearse.open_rehearsal, terms=Terms(opens=True)),
            step("create_database", rehearse.create_database),
            step("clone_source", rehearse.clone_source, **moves_data),
            step("announce_start", announce_steps.announce, arguments={"notice": "start"}),
            preflight_group(plan, RehearsalOperator, check_target=rehearse.check_target, check_places=rehearse.check_places),
            prepare_group(plan, RehearsalOperator),
            step("fence_source", quiesce.fence_source),
            take_backup,
        )
        proven = move_and_prove(plan, take_backup, RehearsalOperator)
        mark_target = step("mark_target", go_live.mark_target)
        with TaskGroup("way_back", tooltip="As a rollback would, as far as the clone goes") as way_back:
            chain(*(step(name, body, step=f"way_back.{name}", **moves_data) for name, body in rehearse.WAY_BACK))
        chain(
            proven,
            mark_target,
            way_back,
            step("announce_completion", announce_steps.announce, arguments={"notice": "completion"}),
            step("close_rehearsal", rehearse.close_rehearsal, terms=Terms(closes=True), trigger_rule="all_done"),
        )
    assign_queues(dag, plan)
    return dag


_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"rehearsal_{_file.stem}"):
        continue
    try:
        _dag = rehearsal_dag(plan_for_dag(_file.stem))
    except PlanInvalid:
        continue  # shown, with its faults, by the cutover's DAG of that plan
    globals()[_dag.dag_id] = _dag
