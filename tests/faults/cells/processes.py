"""Processes and connections that die: tasks, Airflow's parts, PostgreSQL, the network between."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from pathlib import Path

import psycopg
import yaml

from include.cutover.plan.file import load_plan
from include.cutover.runs import runbook
from include.cutover.runs.row import Runs
from tests.faults import inject
from tests.faults.judge import State
from tests.faults.matrix import LIVE, RELEASED, RESTORED, cell
from tests.faults.site import PLAN, FaultSite, until
from tests.faults.trial import Result, Trial
from tests.support.guard import past_guard
from tests.support.incidents import close_incidents
from tests.support.patience import RUN_SECONDS

AT = {
    "begin": "at its start",
    "middle": "in its middle",
    "end": "just before its end",
    "after": "after its end, before Airflow knows",
}
ROLLBACK_STEPS = [row.name for row in runbook.way("rollback")]
RELEASE_STEPS = [row.name for row in runbook.way("release")]


def steps_of_cutover() -> list[str]:
    """Steps of a cutover that goes live, in their order; of the copy, one for each stream of each table."""
    plan = load_plan(PLAN)  # the site's plan once a site runs
    rows = [row for row in runbook.ROWS if Runs.CUTOVER in row.runs and row.way in ("", "go_live") and row.planned(plan)]
    return [name for row in rows if not row.asks for name in runbook.names_of(row, plan)]


def after_copy() -> list[str]:
    """Steps of a cutover that goes live and that run after the copy."""
    steps = steps_of_cutover()
    return steps[max(number for number, step in enumerate(steps) if runbook.is_copy(step)) + 1 :]


# ---- 1 and 14: every task killed once, in one run --------------------------------------------------------------------


def killed_once(trial: Trial, steps: Iterable[str], at: str) -> Callable[[], list[Result]]:
    """Rules that kill each of the steps once; call what is returned in the end for one result per step."""
    rules = {step: trial.rule(step, at, "kill") for step in steps}

    def results() -> list[Result]:
        passed: dict[str, list[float]] = {}
        for file in (trial.site.evidence / PLAN).glob("*/events.jsonl"):
            for event in trial.evidence(file.parent.name).events():
                if event["event"] in ("step.end", "gate") and event.get("outcome", "passed") == "passed":
                    moment = datetime.fromisoformat(event["time"]).timestamp()
                    passed.setdefault(event.get("step") or event["gate"], []).append(moment)
        found = []
        for step, rule in rules.items():
            facts = trial.fired(rule)
            if facts is None:
                found.append(Result(False, "", None, [f"{step} was not killed"], step))
                continue
            trial.fault()
            # Killed after its record there is nothing to be recorded again: the run going on is the recovery.
            later = [moment for moment in passed.get(step, []) if moment > facts["time"]]
            seconds = round(min(later) - facts["time"], 1) if later else None
            problems = [] if later or at == "after" or step.startswith("close_") else [f"{step} did not pass afterwards"]
            found.append(Result(not problems, "", seconds, problems, step))
        return found

    return results


def kill_everything(at: str) -> None:
    """Each task of a cutover that goes live is killed once."""

    @cell(1, f"kill-cutover-{at}", "kill -9 of the task's process", AT[at], LIVE)
    def _(trial: Trial) -> list[Result]:
        gates = [row.name for row in runbook.ROWS if row.asks and at in ("end", "after")]
        results = killed_once(trial, [*steps_of_cutover(), *gates], at)
        trial.wait(trial.cutover())
        return results()

    @cell(14, f"kill-rollback-{at}", "kill -9 of the task's process, manual rollback of a live run", AT[at], RESTORED)
    def _(trial: Trial) -> list[Result]:
        trial.wait(trial.cutover())
        results = killed_once(trial, ["open_rollback", *ROLLBACK_STEPS, "close_rollback"], at)
        trial.wait(trial.rollback())
        return results()


for _at in AT:
    kill_everything(_at)


@cell(1, "kill-telling-steps", "kill -9 of the task's process", "eight steps that change something, in one run", LIVE)
def _(trial: Trial) -> list[Result]:
    ends = killed_once(trial, ("apply_ddl", "fence_source", "take_backup", "switch_configuration", "decide_live"), "end")
    middles = killed_once(trial, ("copy.ping_results.0", "check_tables", "start_services"), "middle")
    trial.wait(trial.cutover())
    return [*ends(), *middles()]


RESTORING = {"copy": ("files._write", 2), "compare": ("trial_restore._compare", 1)}  # blocks of 1 MB
"""Where the restore test is killed: with half a copy of the backup, and with a whole one that it compares."""


def kill_restore_test(name: str, moments: Collection[str], words: str, outcome: State) -> None:
    """The restore test is killed while it restores; what is left of its copy counts for nothing, and goes."""

    @cell(1, f"kill-restore-test-{name}", "kill -9 of the task's process", f"restore_test, {words}", outcome)
    def _(trial: Trial) -> None:
        rules = {
            moment: trial.rule("restore_test", "middle", "hold", function=RESTORING[moment][0], calls=RESTORING[moment][1])
            for moment in moments
        }
        run_id = trial.cutover()
        for moment, rule in rules.items():
            facts = trial.held(rule)
            backup = trial.evidence(run_id).last("backup")
            assert backup is not None
            size = Path(backup["file"]).stat().st_size
            (copy,) = Path(backup["file"]).parent.glob(".restore-test-*/*.restored")
            written = copy.stat().st_size
            trial.require(
                written == size if moment == "compare" else 0 < written < size, f"{written} of {size} bytes copied"
            )
            inject.kill(facts["pid"])
            trial.fault()
        trial.wait(run_id)
        ends = [event for event in trial.evidence(run_id).events() if event["event"] == "step.end"]
        made = [(event["outcome"], len(event["checks"])) for event in ends if event["step"] == "restore_test"]
        expected = [("passed", 5)] if outcome == LIVE else []
        trial.require(made == expected, f"restore tests that ended: {made}")
        left = sorted(path.name for path in copy.parent.parent.glob(".restore-test-*"))
        trial.require(not left, f"left over: {left}")


kill_restore_test("copy", ["copy"], "with half a copy", LIVE)
kill_restore_test("compare", ["compare"], "while it compares", LIVE)
kill_restore_test("twice", ["copy", "compare"], "and its retry", RESTORED)


@cell(1, "kill-start-aftercare", "kill -9 of the task's process", "start_aftercare", LIVE)
def _(trial: Trial) -> None:
    file = trial.site.plans / f"{PLAN}.yaml"
    trial.edit(file, yaml.safe_dump({**yaml.safe_load(file.read_text()), "aftercare": {"minutes": 30}}, allow_unicode=True))
    until(lambda: "start_aftercare" in trial.task_ids(), 60, "the DAG has the task start_aftercare")
    rule = trial.rule("start_aftercare", "begin", "kill")
    run_id = trial.cutover()
    trial.wait(run_id)
    trial.require(trial.fired(rule) is not None, "start_aftercare was not killed")
    watching = [run["dag_run_id"] for run in trial.runs_of("aftercare_ward_ops")]
    trial.require(watching == [f"aftercare__{run_id}"], f"not one aftercare of this run: {watching}")


def kill_automatic_way_back(at: str) -> None:
    """Each task of a rollback or a release that the run does by itself is killed once."""

    @cell(14, f"kill-automatic-rollback-{at}", "kill -9 of the task's process, automatic rollback", AT[at], RESTORED)
    def _(trial: Trial) -> list[Result]:
        results = killed_once(trial, ROLLBACK_STEPS, at)
        with trial.held_at("analyze_tables", "end") as run_id, trial.target() as connection:
            past_guard(connection)
            connection.execute("UPDATE users SET full_name = 'somebody else' WHERE id = (SELECT min(id) FROM users)")
        trial.wait(run_id)
        return results()

    @cell(1, f"kill-release-{at}", "kill -9 of the task's process, release", AT[at], RELEASED)
    def _(trial: Trial) -> list[Result]:
        results = killed_once(trial, RELEASE_STEPS, at)
        with trial.held_at("fence_source", "begin") as run_id:
            holder = inject.Holder(trial.site.ward_ops.database, "open")
            trial.afterwards(holder.stop)
        trial.wait(run_id)
        return results()


for _at in ("begin", "end"):
    kill_automatic_way_back(_at)


# ---- 2: Airflow's own processes --------------------------------------------------------------------------------------


def kill_scheduler(trial: Trial, facts: dict[str, int]) -> None:
    """The scheduler alone; its workers go on, as LocalExecutor's do. It is started again, as a service manager would."""
    inject.kill(trial.site.leader("scheduler").pid)
    time.sleep(1)
    trial.site.stack.start_again("scheduler")


def kill_api_server(trial: Trial, facts: dict[str, int]) -> None:
    """The API server, which tasks beat to; it is started again."""
    trial.site.kill(trial.site.leader("api-server"))
    time.sleep(1)
    trial.site.stack.start_again("api-server")


def kill_worker(trial: Trial, facts: dict[str, int]) -> None:
    """The worker that supervises the held task; the task itself goes on."""
    inject.kill(facts["parent"])


PARTS = {"scheduler": kill_scheduler, "API server": kill_api_server, "worker": kill_worker}
DURING = {"copy": "copy.ping_results.0", "verify": "check_tables", "rollback": "rollback.restore_source"}


def kill_part(part: str, during: str) -> None:
    """A part of Airflow dies while a step is in its middle."""

    @cell(2, f"kill-{part.lower().replace(' ', '-')}-{during}", f"kill -9 of the {part}", during,
          *((RESTORED,) if during == "rollback" else (LIVE, RESTORED)))  # fmt: skip
    def _(trial: Trial) -> None:
        run_id = trial.cutover()
        if during == "rollback":
            trial.wait(run_id)
        rule = trial.hold(DURING[during], "middle")
        if during == "rollback":
            run_id = trial.rollback()
        facts = trial.held(rule)
        trial.fault()
        PARTS[part](trial, facts)
        trial.site.ensure_airflow()
        trial.release(rule)
        trial.wait(run_id)


for _part in PARTS:
    for _during in DURING:
        kill_part(_part, _during)


@cell(2, "scheduler-locks-left", "a killed scheduler's workers keep its connection and its locks", "copy", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        inherited = psycopg.connect(trial.site.metadata())
        trial.afterwards(inherited.close)
        trial.fault()
        inject.kill(trial.site.leader("scheduler").pid)
        inherited.execute("SELECT 1 FROM dag_run WHERE run_id = %s FOR UPDATE", [run_id])
        trial.site.stack.start_again("scheduler")
        trial.site.ensure_airflow()
    trial.wait(run_id)


# ---- 3: the target ---------------------------------------------------------------------------------------------------


def kill_target(site: FaultSite) -> None:
    """SIGKILL to the postmaster and all its backends, and a start with recovery."""
    site.kill(next(leader for leader in site.roster.running if leader.name == "target"))
    site._start_target()


def shut_target_down_at_once(site: FaultSite) -> None:
    """An immediate shutdown, and a start with recovery."""
    site.target.stop(signal.SIGQUIT)
    site._start_target()


def restart_target(site: FaultSite) -> None:
    """A fast shutdown, and a start."""
    site.target.stop()
    site._start_target()


BREAKS = {"kill": kill_target, "immediate-shutdown": shut_target_down_at_once, "restart": restart_target}
WORK_IN_TARGET = {
    "apply_ddl": ("apply_ddl", "DDL"),
    "copy": ("copy.ping_results.0", "copy"),
    "index": ("build_keys_and_indexes", "index build"),
    "verify": ("check_tables", "verify"),
}


def break_target(how: str, where: str) -> None:
    """The target breaks while a step is in its middle."""
    step, words = WORK_IN_TARGET[where]

    @cell(3, f"target-{how}-{where}", f"{how.replace('-', ' ')} of the target", words, LIVE, RESTORED)
    def _(trial: Trial) -> None:
        with trial.held_at(step, "middle") as run_id:
            BREAKS[how](trial.site)
        trial.wait(run_id)


for _how, _wheres in {
    "kill": ("apply_ddl", "copy", "index", "verify"),
    "immediate-shutdown": ("copy", "index"),
    "restart": ("copy", "verify"),
}.items():
    for _where in _wheres:
        break_target(_how, _where)


@cell(3, "target-kill-live", "kill of the target", "after go-live", LIVE)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    kill_target(trial.site)


@cell(3, "target-gone-at-go-live", "kill of the target, which stays down", "smoke_test_application", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("smoke_test_application", "begin") as run_id:
        trial.site.target.stop(signal.SIGQUIT)
    trial.wait(run_id)


@cell(3, "backend-kill-copy", "kill -9 of one backend", "copy", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%%copy%%' LIMIT 1"
        with trial.target() as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        inject.kill(row[0])
    trial.wait(run_id)


# ---- 4: the network --------------------------------------------------------------------------------------------------


def break_connection(how: str, where: str) -> None:
    """The connection between a step and the target breaks; for seconds, or, where it hangs, for good."""
    step, words = WORK_IN_TARGET[where]

    @cell(4, f"connection-{how}-{where}", {"cut": "cut", "slow": "slow", "silent": "hung"}[how], words, LIVE, RESTORED)
    def _(trial: Trial) -> None:
        trial.rule("copy.*", "begin", "patience", seconds=5.0, times=1000)
        with trial.held_at(step, "middle") as run_id:
            trial.site.to_target.fail(how)  # type: ignore[arg-type]
        time.sleep(3)
        trial.site.to_target.mend()
        trial.wait(run_id)


for _how in ("cut", "slow", "silent"):
    for _where in ("copy", "verify"):
        break_connection(_how, _where)


# ---- 9: a zombie -----------------------------------------------------------------------------------------------------


@cell(9, "zombie-copy", "declared dead, it goes on writing while its retry runs", "copy", LIVE)
def _(trial: Trial) -> None:
    rule = trial.hold("copy.ping_results.0", "middle")
    run_id = trial.cutover()
    facts = trial.held(rule)
    inject.kill(facts["parent"])  # nobody beats for it any more
    trial.fault()
    until(lambda: attempts(trial, run_id, "copy.ping_results") > 1, RUN_SECONDS, "Airflow has started a retry")
    time.sleep(2)
    trial.release(rule)
    trial.wait(run_id)
    with contextlib.suppress(FileNotFoundError):
        begun = [event["pid"] for event in trial.evidence(run_id).events() if event.get("step") == "copy.ping_results.0"
                 and event["event"] == "step.begin"]  # fmt: skip
        trial.require(len(begun) > 1, "there was no retry")


def attempts(trial: Trial, run_id: str, task: str) -> int:
    """How often Airflow has started a task of the copy."""
    found = [
        item for item in trial.lead.tasks("cutover_ward_ops", run_id) if item.task_id == f"copy.{task.partition('.')[2]}"
    ]
    return max((item.try_number for item in found if item.state == "running"), default=0)


# ---- 14 and 15: the way back -----------------------------------------------------------------------------------------


@cell(
    14,
    "restore-fails",
    "the file is held open, so the restore refuses; the lead clears it later",
    "restore_source",
    RESTORED,
)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    with trial.held_at("rollback.restore_source", "begin", start=trial.rollback) as run_id:
        holder = inject.Holder(trial.site.ward_ops.database, "open")
        trial.afterwards(holder.stop)
    trial.require(trial.wait(run_id) == "failed", "the rollback is green with its restore refused")
    holder.stop()
    trial.clear(run_id, ["rollback.restore_source"])
    trial.wait(run_id)


@cell(
    15, "target-gone-before-rollback", "PostgreSQL is down when rollback starts", "manual rollback of a live run", RESTORED
)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    trial.site.target.stop(signal.SIGQUIT)
    trial.fault()
    trial.wait(trial.rollback())


@cell(15, "target-back-after-rollback", "PostgreSQL is down at the rollback and back for the next run", "next cutover", LIVE)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    trial.site.target.stop(signal.SIGQUIT)
    trial.fault()
    trial.wait(trial.rollback())
    trial.site._start_target()
    trial.require(bool(close_incidents(PLAN)), "the rollback left no incident")
    trial.wait(trial.cutover())
    # The judge's content is that of the newest run; the older backup is only in the way.
    oldest, *_newer = sorted((trial.folder / "backups").rglob("*.bak"), key=lambda path: path.stat().st_mtime)
    oldest.unlink()


@cell(15, "target-gone-in-flight", "PostgreSQL goes down for good and the run rolls back by itself", "verify", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("check_tables", "middle") as run_id:
        trial.site.target.stop(signal.SIGQUIT)
    trial.wait(run_id)
