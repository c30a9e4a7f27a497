"""# Cutover: from SQLite to PostgreSQL, with automatic rollback when a check fails

One DAG for each plan, read from left to right like the runbook.

| part | what it does | when it fails |
|---|---|---|
| `open_run`, `announce_start` | takes the lease, freezes the plan, posts the notice | nothing was touched |
| `preflight`, `prepare_target` | checks both ends, creates the empty tables | **abandoned**: never stopped |
| `go_no_go` | asks the lead; no answer means no-go | **abandoned** |
| `wait_for_window` | waits for the window; refuses when the source's schema changed since preflight | **abandoned** |
| `quiesce`, `take_backup` | stops the services, fences the file, takes the backup | **released**: services start again |
| `copy`, `finish_target`, `verify` | copies each table, builds keys, proves equal content | **rolled back** |
| `decide`, `go_live`, `decide_live` | asks again, switches the configuration, starts and tests | **rolled back** |
| `announce_completion`, `close_run` | posts the notice, triggers `aftercare_<plan>`, seals the evidence | it stays live |

**The clock:** a run that is not live before its deadline goes back by itself, also in the middle of a long copy; a later go
does not count. The deadline is the end of the window less the time to go back with a margin. Notices are sent at half time,
at three quarters and at the deadline.

A run is green only when the application is **live on PostgreSQL**. The tab *Cutover report* on the run says how it
ended, with every check; the log of a red task says where, what was expected, what was found and what to do next.

**To go back**, also after a green run: trigger `rollback_<plan>` with a reason. Otherwise leave the run alone: marking its
tasks or the run as success or failed opens no gate and undoes nothing.
"""

from __future__ import annotations

from airflow.sdk import chain

from include.cutover.plan.model import Plan
from include.cutover.steps.abandon import call_off
from include.cutover.steps.announce import announce
from include.cutover.steps.close_run import close
from include.cutover.steps.decide import decide
from include.cutover.steps.open_run import open_run
from include.cutover.steps.take_backup import take_backup
from include.cutover.steps.wait_for_window import wait_for_window
from include.cutover.tasks import forms, groups, per_plan
from include.cutover.tasks.aftercare import StartAftercare
from include.cutover.tasks.alerts import alerts
from include.cutover.tasks.gates import Gate
from include.cutover.tasks.operators import BranchOperator, StepFactory, WindowOperator

FORM = {
    "approve": forms.approve(
        "ask: the lead answers two gates, before the services stop and before going live. "
        "auto: no person is asked; only where the plan allows it, for a demo or a test."
    ),
    "reason": forms.text("Reason", "Why this run: a ticket or a sentence. It goes into the evidence and the report."),
    "window_start": forms.window_start(
        "Nothing is stopped before; empty means now. The change freeze begins some minutes before it."
    ),
    "notify": forms.notify(),
    "scheduled": forms.optional(
        "Scheduled by", "Leave empty: schedule_<plan> fills it in when it starts the run that it announced."
    ),
}


def cutover(plan: Plan) -> None:
    """Create the tasks of a cutover."""
    step = StepFactory(plan)
    backup = step("take_backup", take_backup)
    decision = step(
        "decide",
        decide,
        operator=BranchOperator,
        arguments={"at": "decide"},
        branches={
            "go_on": "go_live.approve",
            "abandon": "abandon",
            "release": "release.lift_fence",
            "rollback": "rollback.stop_services",
        },
        trigger_rule="all_done",
    )
    decision_live = step(
        "decide_live",
        decide,
        operator=BranchOperator,
        arguments={"at": "decide_live"},
        branches={"go_on": "announce_completion", "rollback": "rollback.stop_services"},
        trigger_rule="all_done",
    )
    completion = step("announce_completion", announce, arguments={"notice": "completion"})
    close_run = step("close_run", close, trigger_rule="all_done")
    chain(
        step("open_run", open_run),
        step("announce_start", announce, arguments={"notice": "start"}),
        groups.preflight_group(step),
        groups.prepare_group(step),
        Gate(task_id="go_no_go", plan=plan, gate="go_no_go", question=f"Stop {plan.application} and migrate it?"),
        step("wait_for_window", wait_for_window, operator=WindowOperator),
        groups.quiesce_group(step),
        backup,
    )
    chain(groups.move_and_prove(step, backup), decision, groups.go_live_group(step), decision_live, completion, close_run)
    if plan.aftercare.enabled:  # before close_run, which alone decides how the run ends
        chain(completion, StartAftercare(task_id="start_aftercare", plan=plan.name, trigger_rule="all_done"), close_run)
    chain([decision, decision_live], groups.rollback_group(step), close_run)
    chain(decision, [step("abandon", call_off), groups.release_group(step)], close_run)


globals().update(
    per_plan.dags(
        "cutover",
        cutover,
        doc=__doc__,
        description="Moves {application} from SQLite to PostgreSQL",
        form=FORM,
        settings=lambda plan: {"deadline": alerts(plan)},
    )
)
