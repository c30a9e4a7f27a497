"""# Cutover: from SQLite to PostgreSQL, and back by itself when a check fails

One DAG for each plan, read from left to right like the runbook.

| part | what it does | when it fails |
|---|---|---|
| `open_run`, `announce_start` | takes the lease, freezes the plan, tells people | nothing was touched |
| `preflight`, `prepare_target` | looks at both ends, makes the empty tables | **abandoned**: never stopped |
| `go_no_go` | asks the lead; no answer means no-go | **abandoned** |
| `wait_for_window` | waits for the start of the window; refuses when the source's schema changed meanwhile | **abandoned** |
| `quiesce`, `take_backup` | stops the services, fences the file, takes the backup | **released**: services start again |
| `copy`, `finish_target`, `verify` | copies each table, builds keys, proves equal content | **rolled back** |
| `decide`, `go_live`, `decide_live` | asks again, switches the configuration, starts and tries | **rolled back** |
| `announce_completion`, `close_run` | tells people, triggers `aftercare_<plan>`, seals the evidence | live all the same |

**The clock:** a run that is not live before its deadline, the end of the window less the time to go back with a margin,
goes back by itself, also in the middle of a long copy; a go that comes later does not count. People are told at half
time, at three quarters and at the deadline.

A run is green only when the application is **live on PostgreSQL**. The tab *Cutover report* on the run says in words how it
ended, with every check; the log of a red task says where, what was expected, what was found and what to do next.

**To go back**, also after a green run: trigger `rollback_<plan>` with a reason. Leave the run alone otherwise: marking its
tasks or the run as success or failed opens no gate and undoes nothing.
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
from include.cutover.runs import runbook
from include.cutover.steps import abandon as abandon_steps
from include.cutover.steps import announce as announce_steps
from include.cutover.steps import close_run as steps_close_run
from include.cutover.steps import decide as decide_steps
from include.cutover.steps import go_live as steps_go_live
from include.cutover.steps import open_run as steps_open_run
from include.cutover.steps import quiesce as steps_quiesce
from include.cutover.steps import take_backup as take_backup_steps
from include.cutover.steps import wait_for_window as wait_for_window_steps
from include.cutover.steps.step import Report, Step, Terms
from include.cutover.tasks.aftercare import StartAftercare
from include.cutover.tasks.alerts import alerts
from include.cutover.tasks.gates import Gate
from include.cutover.tasks.groups import move_and_prove, preflight_group, prepare_group, release_group, rollback_group
from include.cutover.tasks.limits import STEP_TIME, time_for_data, way_back
from include.cutover.tasks.operators import BranchOperator, StepOperator, WindowOperator
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FORM = {
    "approve": Param(
        "ask",
        type="string",
        enum=["ask", "auto"],
        title="Approval",
        description="ask: the lead answers two gates, before the services stop and before going live. "
        "auto: nobody is asked; only where the plan allows it, for a demo or a test.",
    ),
    "reason": Param(
        type="string",
        minLength=3,
        maxLength=500,
        title="Reason",
        description="Why this run: a ticket or a sentence. It stands in the evidence and in the report.",
    ),
    "window_start": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Start of the window",
        description="Nothing is stopped before; empty means now. The change freeze begins some minutes before it.",
    ),
    "notify": Param(
        True,
        type="boolean",
        title="Send notices",
        description="Off: notices are written into the evidence only.",
    ),
    "scheduled": Param(
        None,
        type=["null", "string"],
        maxLength=250,
        title="Scheduled by",
        description="Leave empty: schedule_<plan> fills it in when it starts the run that it announced.",
    ),
}


def cutover_dag(plan: Plan) -> DAG:
    """The cutover of one plan."""

    moves_data = time_for_data(plan)

    def step(name: str, body: Any, **settings: Any) -> StepOperator:
        return StepOperator(task_id=name, plan=plan.name, body=body, **settings)

    with DAG(
        dag_id=f"cutover_{plan.name}",
        description=f"Moves {plan.application} from SQLite to PostgreSQL",
        doc_md=__doc__,
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
        deadline=alerts(plan),
        params=FORM,
        tags=["cutover", plan.name],
        default_args={
            "retries": 1,
            "retry_delay": timedelta(seconds=2),
            "execution_timeout": STEP_TIME,
        },
    ) as dag:
        open_run = step("open_run", steps_open_run.open_run, terms=Terms(opens=True))
        announce_start = step("announce_start", announce_steps.announce, arguments={"notice": "start"})

        look = preflight_group(plan)
        prepare_target = prepare_group(plan)

        go_no_go = Gate(task_id="go_no_go", plan=plan, gate="go_no_go", question=f"Stop {plan.application} and migrate it?")

        wait_for_window = WindowOperator(
            task_id="wait_for_window",
            plan=plan.name,
            body=wait_for_window_steps.wait_for_window,
            terms=Terms(gate="go_no_go"),
        )

        with TaskGroup("quiesce", tooltip="The downtime begins") as quiesce:
            chain(
                step(
                    "stop_services",
                    steps_quiesce.stop_services,
                    terms=Terms(gate="go_no_go", after=runbook.BEFORE_STOPPING, in_time=True),
                ),
                step("fence_source", steps_quiesce.fence_source, terms=Terms(after=("stop_services",))),
            )

        take_backup = step("take_backup", take_backup_steps.take_backup, terms=Terms(after=("fence_source",)), **moves_data)

        proven = move_and_prove(plan, take_backup)

        decide = BranchOperator(
            task_id="decide",
            plan=plan.name,
            body=decide_steps.decide,
            arguments={"at": "decide"},
            branches={
                "go_on": "go_live.approve",
                "abandon": "abandon",
                "release": "release.lift_fence",
                "rollback": "rollback.stop_services",
            },
            trigger_rule="all_done",
            **way_back(""),
        )

        with TaskGroup("go_live", tooltip="The downtime ends") as go_live:
            chain(
                Gate(task_id="approve", plan=plan, gate="approve", question=f"Take {plan.application} live on PostgreSQL?"),
                *(step(name, body, terms=terms) for name, body, terms in steps_go_live.going_live()),
            )

        decide_live = BranchOperator(
            task_id="decide_live",
            plan=plan.name,
            body=decide_steps.decide,
            arguments={"at": "decide_live"},
            branches={"go_on": "announce_completion", "rollback": "rollback.stop_services"},
            trigger_rule="all_done",
            **way_back(""),
        )
        announce_completion = step(
            "announce_completion", announce_steps.announce, arguments={"notice": "completion"}, **way_back("live")
        )

        abandon = step("abandon", abandon_steps.call_off, **way_back("abandon"))
        release = release_group(plan)
        rollback = rollback_group(plan)
        close_run = step("close_run", steps_close_run.close, terms=Terms(closes=True), trigger_rule="all_done")

        chain(open_run, announce_start, look, prepare_target, go_no_go, wait_for_window, quiesce, take_backup)
        chain(proven, decide)
        chain(decide, go_live, decide_live, announce_completion, close_run)
        if plan.aftercare.enabled:  # before close_run, which alone decides how the run ends
            start_aftercare = StartAftercare(task_id="start_aftercare", plan=plan.name, trigger_rule="all_done")
            chain(announce_completion, start_aftercare, close_run)
        chain([decide, decide_live], rollback, close_run)
        chain(decide, [abandon, release], close_run)
    assign_queues(dag, plan)
    return dag


def broken_plan_dag(name: str, error: PlanInvalid) -> DAG:
    """A plan that cannot be read is shown as what it is, and takes no other plan down with it."""

    def refuse(_: Step) -> Report:
        raise error

    with DAG(
        dag_id=f"cutover_{name}",
        description="This plan has faults",
        doc_md=f"# This plan has faults\n\n```\n{error}\n```",
        schedule=None,
        tags=["cutover", "broken plan"],
    ) as dag:
        StepOperator(
            task_id="faults_of_the_plan",
            plan=name,
            body=refuse,
            terms=Terms(opens=True),
            retries=0,
            execution_timeout=STEP_TIME,
        )
    return dag


# A task's process parses this file again and needs its own DAG only.
_wanted = get_parsing_context().dag_id
for _file in sorted(Path(plans_folder()).glob("*.yaml")):
    if _wanted not in (None, f"cutover_{_file.stem}"):
        continue
    try:
        _dag = cutover_dag(plan_for_dag(_file.stem))
    except PlanInvalid as _error:
        _dag = broken_plan_dag(_file.stem, _error)
    globals()[_dag.dag_id] = _dag
