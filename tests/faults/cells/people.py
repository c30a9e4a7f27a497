"""Acts of people, and the pipeline beside itself: two triggers, two schedulers, cleared tasks, answers, set states."""

from __future__ import annotations

import contextlib
import time

from include.cutover.errors import CutoverError
from tests.faults.matrix import LIVE, RESTORED, UNTOUCHED, cell
from tests.faults.site import CUTOVER
from tests.faults.trial import Trial

# ---- 8: twice --------------------------------------------------------------------------------------------------------


@cell(8, "triggered-twice", "the cutover is triggered a second time while the first runs", "copy", LIVE)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as first:
        second = trial.cutover()
    trial.require(trial.wait(first) == "success", "the first run did not go live")
    trial.require(trial.wait(second) == "failed", "the second run did not refuse itself")
    trial.require(trial.evidence(second).last("run.opened") is None, "the second run opened")


@cell(8, "triggered-twice-then-called-off", "a second trigger waits; the first is called off", "go_no_go", LIVE)
def _(trial: Trial) -> None:
    first = trial.cutover("ask")
    trial.gate(first, "go_no_go")
    trial.fault()
    second = trial.cutover()
    trial.answer(first, "go_no_go", "No-go")
    trial.require(trial.wait(first) == "failed", "the first run is green")
    # Nothing was touched, so the second one is as good as a new one: it opens, or it refuses itself.
    if trial.wait(second) == "failed":
        trial.require(trial.evidence(second).last("run.opened") is None, "the second run opened and did not go live")
        trial.wait(trial.cutover())


@cell(8, "rollback-during-cutover", "the rollback is triggered while the cutover copies", "copy", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.fault()
        back = trial.rollback()
        time.sleep(5)  # it takes the lease over and waits for the step in flight
    trial.require(trial.wait(back) == "success", "the rollback failed")
    trial.wait(run_id)


@cell(8, "rollback-during-go-live", "the rollback is triggered while the services start", "start_services", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("start_services", "begin") as run_id:
        trial.fault()
        back = trial.rollback()
        time.sleep(5)
    trial.require(trial.wait(back) == "success", "the rollback failed")
    trial.wait(run_id)


@cell(8, "two-schedulers", "a second scheduler runs beside the first", "from the start", LIVE)
def _(trial: Trial) -> None:
    second = trial.site.stack.start_again("scheduler", "scheduler-2")
    trial.afterwards(lambda: trial.site.kill(second))
    time.sleep(trial.site.pulse.task)
    trial.fault()
    trial.wait(trial.cutover())


# ---- 10: cleared -----------------------------------------------------------------------------------------------------


def clear_after(state: str) -> None:
    """Somebody clears the whole run after it has ended, and single tasks of it."""
    name = state.replace(" ", "-")  # ONLY is split at blanks

    @cell(
        10,
        f"clear-run-{name}",
        "the whole run is cleared",
        f"after it ended {state}",
        LIVE if state == "live" else RESTORED,
    )
    def _(trial: Trial) -> None:
        run_id = trial.cutover()
        trial.wait(run_id)
        if state != "live":
            trial.wait(trial.rollback())
        trial.fault()
        trial.clear(run_id)
        with contextlib.suppress(TimeoutError):
            trial.wait_until_running(run_id)
        trial.wait(run_id)

    @cell(10, f"clear-tasks-{name}", "take_backup, a copy and start_services are cleared, one after the other",
          f"after it ended {state}", LIVE if state == "live" else RESTORED)  # fmt: skip
    def _(trial: Trial) -> None:
        run_id = trial.cutover()
        trial.wait(run_id)
        if state != "live":
            trial.wait(trial.rollback())
        trial.fault()
        for task in ("take_backup", "copy.users", "go_live.start_services"):
            trial.clear(run_id, [task], downstream=False)
            with contextlib.suppress(TimeoutError):
                trial.wait_until_running(run_id)
            trial.wait(run_id)


clear_after("live")
clear_after("rolled back")


@cell(
    10,
    "clear-rollback",
    "the whole rollback is cleared after the application has written again",
    "after a rollback",
    RESTORED,
)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    back = trial.rollback()
    trial.wait(back)
    time.sleep(2)
    trial.fault()
    trial.clear(back)
    with contextlib.suppress(TimeoutError):
        trial.wait_until_running(back)
    trial.wait(back)


@cell(10, "clear-run-in-flight", "the whole run is cleared", "copy", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.fault()
        trial.clear(run_id)
        time.sleep(3)
    trial.wait(run_id)


@cell(10, "clear-backup-in-flight", "take_backup and all after it is cleared", "verify", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("check_tables", "middle") as run_id:
        trial.fault()
        trial.clear(run_id, ["take_backup"])
        time.sleep(3)
    trial.wait(run_id)


@cell(10, "clear-services-in-flight", "stop_services alone is cleared", "after go-live, before the run ends", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("announce_completion", "begin") as run_id:
        trial.fault()
        trial.clear(run_id, ["quiesce.stop_services"], downstream=False)
        time.sleep(6)
    trial.wait(run_id)
    if trial.verdict().problems:
        trial.wait(trial.rollback(run_id))


# ---- 12: answers -----------------------------------------------------------------------------------------------------


@cell(12, "nobody-answers-go-no-go", "nobody answers", "go_no_go", UNTOUCHED)
def _(trial: Trial) -> None:
    run_id = trial.cutover("ask")
    trial.gate(run_id, "go_no_go")
    trial.fault()
    trial.wait(run_id)


@cell(12, "nobody-answers-approve", "nobody answers", "approve", RESTORED)
def _(trial: Trial) -> None:
    run_id = trial.cutover("ask")
    trial.answer(run_id, "go_no_go")
    trial.gate(run_id, "approve")
    trial.fault()
    trial.wait(run_id)


@cell(12, "wrong-person-answers", "observer and communicator answer", "both gates", RESTORED)
def _(trial: Trial) -> None:
    run_id = trial.cutover("ask")
    for name in ("go_no_go", "approve"):
        gate = trial.gate(run_id, name)
        trial.fault()
        for user in ("observer", "communicator"):
            with trial.site.stack.client(user) as client:
                try:
                    client.answer(CUTOVER, run_id, gate, "Go")
                except CutoverError:
                    continue
                trial.require(False, f"{user} answered {name}")
        if name == "go_no_go":
            trial.lead.answer(CUTOVER, run_id, gate, "Go")
    trial.wait(run_id)  # nobody entitled says a word about going live


@cell(12, "no-go-at-approve", "the lead says No-go", "approve", RESTORED)
def _(trial: Trial) -> None:
    run_id = trial.cutover("ask")
    trial.answer(run_id, "go_no_go")
    trial.fault()
    trial.answer(run_id, "approve", "No-go")
    trial.wait(run_id)


# ---- 19: states set by hand ------------------------------------------------------------------------------------------


@cell(19, "paused", "the DAG is paused for ten seconds", "copy", LIVE)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.lead.pause(CUTOVER)
    time.sleep(10)
    trial.lead.pause(CUTOVER, False)
    trial.wait(run_id)


@cell(19, "paused-then-rollback", "the DAG is paused and stays so; the lead rolls back", "copy", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.lead.pause(CUTOVER)
    trial.wait(trial.rollback())
    trial.lead.pause(CUTOVER, False)
    trial.wait(run_id)


def mark_run(state: str) -> None:
    """Somebody sets the run's state while it copies; the lead rolls back."""

    @cell(19, f"run-marked-{state}", f"the run is marked {state}; the lead rolls back", "copy", RESTORED)
    def _(trial: Trial) -> None:
        with trial.held_at("copy.ping_results.0", "middle") as run_id:
            trial.mark_run(run_id, state)
        time.sleep(3)
        trial.wait(trial.rollback())


mark_run("failed")
mark_run("success")


@cell(19, "run-deleted", "the run is deleted; the lead rolls back", "copy", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.delete_run(run_id)
    time.sleep(3)
    trial.wait(trial.rollback())


def mark_gate(gate: str) -> None:
    """Somebody marks a gate's task as success instead of answering it."""
    task = {"go_no_go": "go_no_go", "approve": "go_live.approve"}[gate]

    @cell(19, f"gate-marked-success-{gate}", "the gate's task is marked success", gate,
          UNTOUCHED if gate == "go_no_go" else RESTORED)  # fmt: skip
    def _(trial: Trial) -> None:
        run_id = trial.cutover("ask")
        if gate == "approve":
            trial.answer(run_id, "go_no_go")
        trial.gate(run_id, gate)
        trial.mark_task(run_id, task, "success")
        trial.fault()
        trial.wait(run_id)


mark_gate("go_no_go")
mark_gate("approve")


def mark_step(step: str, task: str) -> None:
    """Somebody marks a task as success while it runs."""

    @cell(
        19, f"task-marked-success-{step.partition('.')[0]}", "the task is marked success while it runs", task, LIVE, RESTORED
    )
    def _(trial: Trial) -> None:
        with trial.held_at(step, "middle") as run_id:
            trial.mark_task(run_id, task, "success")
            trial.fault()
            time.sleep(3)
        trial.wait(run_id)


mark_step("check_tables", "verify.check_tables")
mark_step("copy.users", "copy.users")
