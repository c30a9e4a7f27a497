"""The surroundings: mail and Slack, the application's services, clocks, and the pipeline's own files."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from examples.receivers import read_mail, read_slack
from tests.faults.cells.processes import after_copy
from tests.faults.judge import State
from tests.faults.matrix import LIVE, RELEASED, RESTORED, UNTOUCHED, cell
from tests.faults.site import PLAN, until
from tests.faults.trial import Trial

# ---- 11: notices -----------------------------------------------------------------------------------------------------


def break_channels(how: str) -> None:
    """Slack and mail do not work at the first notice and are back before the last."""
    words = {"refuse": "down", "silent": "hung", "slow": "slow"}[how]

    @cell(11, f"channels-{how}", f"Slack and SMTP {words}, back before the end", "announce_start", LIVE)
    def _(trial: Trial) -> None:
        channels = (trial.site.to_slack, trial.site.to_mail)
        for proxy in channels:
            proxy.fail(how)  # type: ignore[arg-type]
        trial.fault()
        with trial.held_at("analyze_tables", "begin") as run_id:
            for proxy in channels:
                proxy.mend()
        trial.wait(run_id)
        mails = Counter(message.subject for message in read_mail(trial.site.received))
        wanted = {"Ward OPS: migration to PostgreSQL begins": 1, "Ward OPS: migration complete": 1}
        trial.require(dict(mails) == wanted, f"mails: {dict(mails)}")
        slack = len(read_slack(trial.site.received))
        trial.require(slack == 2, f"{slack} messages in Slack, not 2")


for _how in ("refuse", "silent", "slow"):
    break_channels(_how)


@cell(11, "channels-never-back", "Slack and SMTP down all the time", "every notice", LIVE)
def _(trial: Trial) -> None:
    trial.site.to_slack.fail("refuse")
    trial.site.to_mail.fail("silent")
    trial.fault()
    trial.notices = False
    run_id = trial.cutover()
    trial.wait(run_id)
    failed = [event for event in trial.evidence(run_id).events() if event["event"] == "notice.delivery"]
    trial.require(bool(failed), "the evidence does not say that nobody was told")


# ---- 13: services ----------------------------------------------------------------------------------------------------


@cell(
    13,
    "supervisord-hangs",
    "services cannot be stopped: their supervisor hangs for a while",
    "stop_services",
    RELEASED,
    UNTOUCHED,
    LIVE,
)
def _(trial: Trial) -> None:
    pid = int((trial.site.ward_ops.root / "supervisord.pid").read_text())
    with trial.held_at("stop_services", "begin") as run_id:
        os.kill(pid, signal.SIGSTOP)
        trial.afterwards(lambda: os.kill(pid, signal.SIGCONT))
    trial.wait_for(run_id, "decision")
    os.kill(pid, signal.SIGCONT)
    trial.wait(run_id)


@cell(13, "service-comes-back", "a stopped service is started again by somebody", "quiesce", LIVE, RELEASED)
def _(trial: Trial) -> None:
    over = threading.Event()

    def start_again() -> None:
        with trial.site.ward_ops.supervisor() as supervisor:
            until(lambda: "worker" not in trial.site.ward_ops.pids(), 60)
            while not over.wait(0.3):
                try:
                    supervisor.supervisor.startProcess("worker")
                except Exception:  # noqa: BLE001  # it runs already
                    continue

    somebody = threading.Thread(target=start_again)
    with trial.held_at("stop_services", "begin") as run_id:
        somebody.start()
    trial.wait_for(run_id, "step.end", step="stop_services")
    time.sleep(3)
    over.set()
    somebody.join()
    trial.wait(run_id)


@cell(13, "service-starts-after-fence", "a stopped service is started by somebody", "copy", LIVE, RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        with trial.site.ward_ops.supervisor() as supervisor:
            supervisor.supervisor.startProcess("worker")
        trial.fault()
        time.sleep(2)
    trial.wait(run_id)


@cell(13, "services-do-not-start", "the new configuration does not start", "start_services", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("start_services", "begin") as run_id:
        dotenv = trial.site.ward_ops.dotenv
        dotenv.write_text(dotenv.read_text().replace("DATABASE_URL=", "DATABASE_URL=nonsense-"))
    trial.wait(run_id)


def bad_health(how: str) -> None:
    """The health endpoint does not say what is, at go-live; it is well again when the services are back on SQLite."""
    words = {"red": "health is red", "hang": "health hangs", "lie": "health lies: 200 with an error inside"}[how]

    @cell(13, f"health-{how}-live", words, "start_services", RESTORED)
    def _(trial: Trial) -> None:
        rule = trial.hold("start_services", "begin")
        back = trial.hold("rollback.start_services", "begin")
        run_id = trial.cutover()
        trial.held(rule)
        trial.site.front.fail(how)  # type: ignore[arg-type]
        trial.fault()
        trial.release(rule)
        trial.held(back)
        trial.site.front.mend()
        trial.release(back)
        trial.wait(run_id)

    @cell(13, f"health-{how}-preflight", words, "preflight", UNTOUCHED)
    def _(trial: Trial) -> None:
        trial.site.front.fail(how)  # type: ignore[arg-type]
        trial.fault()
        trial.wait(trial.cutover())


for _how in ("red", "hang", "lie"):
    bad_health(_how)


@cell(
    13, "health-red-rollback", "health is red; the lead clears the check when it is well", "rollback.check_health", RESTORED
)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    with trial.held_at("rollback.check_health", "begin", start=trial.rollback) as back:
        trial.site.front.fail("red")
    trial.require(trial.wait(back) == "failed", "the rollback is green though the application is not well")
    trial.site.front.mend()
    trial.clear(back, ["rollback.check_health"])
    trial.wait(back)


# ---- 16: clocks ------------------------------------------------------------------------------------------------------


@cell(16, "time-zones", "server at St. John's, session in Kathmandu, workers in Tokyo", "from the start", LIVE)
def _(trial: Trial) -> None:
    with trial.target() as connection:
        connection.execute("ALTER DATABASE ward_flux SET timezone = 'America/St_Johns'")
        connection.execute("ALTER ROLE cutover IN DATABASE ward_flux SET timezone = 'Asia/Kathmandu'")
    trial.rule("*", "begin", "zone", times=1000, zone="Asia/Tokyo")
    trial.fault()
    trial.wait(trial.cutover())


def jump(name: str, words: str, minutes: int, state: State) -> None:
    """The workers' clock jumps in the middle of the run."""

    @cell(16, f"clock-{name}", f"the workers' clock is {words}", "from copy on", state)
    def _(trial: Trial) -> None:
        for step in ("copy.*", *after_copy()):
            trial.rule(step, "begin", "clock", times=1000, seconds=60.0 * minutes)
        trial.wait(trial.cutover())


@cell(16, "clock-wrong-before", "the workers' clock is 2 hours behind", "preflight", UNTOUCHED)
def _(trial: Trial) -> None:
    trial.rule("*", "begin", "clock", times=1000, seconds=-7200.0)
    trial.wait(trial.cutover())


jump("ahead", "20 minutes ahead", 20, LIVE)
jump("past-the-deadline", "2 hours ahead, past the deadline", 120, RESTORED)
jump("behind", "2 hours behind", -120, LIVE)


# ---- 17 and 20: the pipeline's own files -----------------------------------------------------------------------------


Change = Callable[[Trial], None]


def in_flight(row: int, name: str, fault: str, *expects: State) -> Callable[[Change], Change]:
    """A file changes while the copy is in its middle, and stays so until the run has ended or the lead has rolled back."""

    def enter(change: Change) -> Change:
        @cell(row, name, fault, "copy", *expects)
        def _(trial: Trial) -> None:
            with trial.held_at("copy.ping_results.0", "middle") as run_id:
                change(trial)
            trial.wait(run_id)
            if not trial.evidence(run_id).sealed:
                trial.wait(trial.rollback())

        return change

    return enter


@in_flight(17, "plan-changes", "the plan gets another table", RESTORED)
def _(trial: Trial) -> None:
    file = trial.site.plans / f"{PLAN}.yaml"
    trial.edit(file, file.read_text().replace("  alert_rules:", "  alert_rules_2:"))


@in_flight(17, "sql-changes", "an SQL file that was not yet applied loses a key", RESTORED)
def _(trial: Trial) -> None:
    file = trial.site.sql / PLAN / "foreign_keys" / "001_foreign_keys.sql"
    *statements, _last = file.read_text().strip().split(";\n")
    trial.edit(file, ";\n".join(statements) + ";\n")


@in_flight(17, "dag-file-changes", "the DAG's code changes", LIVE, RESTORED)
def _(trial: Trial) -> None:
    file = trial.site.stack.folder / "dags" / "cutover.py"
    trial.edit(file, file.read_text().replace('trigger_rule="all_done")', 'trigger_rule="all_done", retries=4)'))


@in_flight(20, "plan-broken", "the plan file is broken", LIVE, RESTORED)
def _(trial: Trial) -> None:
    trial.edit(trial.site.plans / f"{PLAN}.yaml", "name: ward_ops\ntables: [\n")


@cell(
    20,
    "dag-file-broken",
    "the cutover's DAG file does not parse, so the run stands still; the lead rolls back",
    "copy",
    RESTORED,
)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        file = trial.site.stack.folder / "dags" / "cutover.py"
        whole = file.read_text()
        trial.edit(file, f"{whole}\nthis is no python\n")
    time.sleep(15)
    trial.require(trial.wait(trial.rollback()) == "success", "the rollback failed while the other DAG's file is broken")
    file.write_text(whole)
    trial.mark_run(run_id, "failed")  # it stood still; what it would do is refused, its lease is gone
