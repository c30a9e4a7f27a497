"""The host reboots and its services start by themselves; the application writes on SQLite before the way back has ended."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from include.cutover.runs import runbook
from tests.faults import reboot
from tests.faults.cells.processes import ROLLBACK_STEPS, steps_of_cutover
from tests.faults.matrix import LIVE, RELEASED, RESTORED, cell
from tests.faults.site import until
from tests.faults.trial import Result, Trial
from tests.support.guard import past_guard
from tests.support.incidents import close_incidents
from tests.support.patience import RUN_SECONDS

SPOILT = "UPDATE users SET full_name = 'somebody else' WHERE id = (SELECT min(id) FROM users)"


# ---- 28: the application wrote on the restored file ------------------------------------------------------------------


def reach_restored(trial: Trial, how: str) -> tuple[str, str]:
    """Bring a rollback to where the file is restored and the configuration names it; return cutover and rolling-back run."""
    if how == "automatic":
        rule = trial.hold("rollback.revert_configuration", "after")
        with trial.held_at("analyze_tables", "end") as run_id, trial.target() as connection:
            past_guard(connection)
            connection.execute(SPOILT)
        trial.held(rule)
        return run_id, run_id
    run_id = trial.cutover()
    trial.wait(run_id)
    rule = trial.hold("rollback.revert_configuration", "after")
    back = trial.rollback()
    trial.held(rule)
    return run_id, back


def break_glass(trial: Trial, run_id: str, back: str) -> None:
    """The rollback is typed while Airflow is down; then Airflow comes back."""
    status = trial.wait_for_command(trial.break_glass(run_id))
    trial.require(status == 0, f"break-glass ended with status {status}")
    trial.start_airflow()
    trial.wait(back)


def clear_rollback(trial: Trial, run_id: str, back: str) -> None:
    """Airflow comes back, and the lead clears the rollback from its first step."""
    trial.start_airflow()
    trial.clear(back, ["rollback.stop_services"])
    trial.wait(back)


def roll_back_again(trial: Trial, run_id: str, back: str) -> None:
    """Airflow comes back, the first rollback fails, and the lead rolls back a second time."""
    never_reverts(trial)
    trial.start_airflow()
    second_rollback(trial, run_id, back)


def never_reverts(trial: Trial) -> None:
    """Let the step after the restore die at every try, so that the rollback fails there and cannot go on by itself."""
    trial.rule("rollback.revert_configuration", "begin", "kill", times=20)


def second_rollback(trial: Trial, run_id: str, back: str) -> None:
    """Wait until the first rollback has failed, then let the lead roll back again."""
    trial.require(trial.wait(back) == "failed", "the first rollback is green, so nothing was tried")
    trial.no_more_rules()
    trial.wait(trial.rollback(run_id))


AGAIN: dict[str, tuple[str, Callable[[Trial, str, str], None]]] = {
    "break-glass": ("break-glass", break_glass),
    "cleared": ("the lead clears stop_services", clear_rollback),
    "second-rollback": ("the lead rolls back again", roll_back_again),
}


def wrote_after_reboot(how: str, again: str) -> None:
    """The file is restored, power is cut, the services start by themselves and write; somebody rolls back again."""
    words, act = AGAIN[again]

    @cell(
        28, f"reboot-restored-{how}-{again}", f"reboot, rows on SQLite, {words}; {how} rollback", "restore_source", RESTORED
    )
    def _(trial: Trial) -> None:
        run_id, back = reach_restored(trial, how)
        booted = trial.reboot(airflow=False)
        trial.require(booted.database == "sqlite", f"after the reboot the application ran on {booted.database or 'nothing'}")
        trial.require(bool(trial.acknowledged.write(2)), "the application acknowledged nothing, so nothing was tried")
        act(trial, run_id, back)


for _how in ("automatic", "manual"):
    for _again in AGAIN:
        wrote_after_reboot(_how, _again)


@cell(28, "started-by-hand-after-restore", "somebody starts the services by hand, rows on SQLite, the lead rolls back again",
      "restore_source", RESTORED)  # fmt: skip
def _(trial: Trial) -> None:
    run_id, back = reach_restored(trial, "manual")
    trial.site.kill(trial.site.leader("scheduler"))
    trial.fault()
    reboot.observe(trial.site)
    trial.site.start_services()
    trial.require(len(trial.acknowledged.write(3)) == 3, "the application acknowledged nothing, so nothing was tried")
    never_reverts(trial)
    trial.site.ensure_airflow()
    second_rollback(trial, run_id, back)


# ---- 21: a reboot at every step --------------------------------------------------------------------------------------


@dataclass
class Walk:
    """A walk through the steps of a run, with a reboot at each of them.

    Args:
        trial: The trial.
        steps: The steps that are still to be rebooted in.
        at: ``begin`` or ``end`` of each.
    """

    trial: Trial
    steps: Sequence[str]
    at: str
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rules = {step: self.trial.hold(step, self.at) for step in self.steps}

    @property
    def left(self) -> list[str]:
        """Steps in which no process was held yet."""
        return [step for step, rule in self.rules.items() if self.trial.fired(rule) is None]

    def next(self, ended: Callable[[], object]) -> list[int]:
        """Wait until a process is held in one more step; return its process id, and those of steps beside it.

        The list is empty where ``ended`` came first.
        """
        done = {result.task for result in self.results}

        def held() -> list[str]:
            return [step for step in self.steps if step not in done and step not in self.left]

        until(lambda: held() or ended(), RUN_SECONDS, f"a step is held, or the run ends; left are {self.left}")
        found = held()
        self.results += [Result(True, "", None, [], step) for step in found]
        return [int((self.trial.fired(self.rules[step]) or {})["pid"]) for step in found]

    def finished(self) -> list[Result]:
        """Return a result for each step."""
        lost = [Result(False, "", None, [f"{step} was not reached"], step) for step in self.left]
        return [*self.results, *lost]


def airflow_walk(trial: Trial, walk: Walk, subject: str, run_id: str) -> None:
    """Reboot at each step; Airflow comes back each time. Where that is not enough, the lead clears the rollback once."""

    def go() -> None:
        while walk.next(lambda: trial.state(run_id) in ("success", "failed")):
            trial.reboot()
        trial.wait(run_id)

    go()
    if (trial.evidence(subject).sealed or {}).get("outcome") not in ("rolled_back", "released"):
        trial.clear(run_id, ROLLBACK_STEPS[:1])
        trial.wait_until_running(run_id, 60)
        go()


def exited(process: subprocess.Popen[str]) -> bool:
    """Report whether a command has ended."""
    return process.poll() is not None


def reboot_rolling_back(at: str) -> None:
    """The host reboots at every step of a rollback."""
    words = {"begin": "at its begin", "end": "at its end"}[at]

    @cell(21, f"reboot-automatic-rollback-{at}", "reboot, Airflow comes back, automatic rollback",
          f"{words}, automatic rollback", RESTORED, RELEASED)  # fmt: skip
    def _(trial: Trial) -> list[Result]:
        walk = Walk(trial, ROLLBACK_STEPS, at)
        with trial.held_at("analyze_tables", "end") as run_id, trial.target() as connection:
            past_guard(connection)
            connection.execute(SPOILT)
        airflow_walk(trial, walk, run_id, run_id)
        return walk.finished()

    @cell(21, f"reboot-manual-rollback-{at}", "reboot, Airflow comes back, manual rollback of a live run",
          "manual rollback of a live run", RESTORED, RELEASED)  # fmt: skip
    def _(trial: Trial) -> list[Result]:
        run_id = trial.cutover()
        trial.wait(run_id)
        walk = Walk(trial, ["open_rollback", *ROLLBACK_STEPS, "close_rollback"], at)
        airflow_walk(trial, walk, run_id, trial.rollback())
        return walk.finished()

    @cell(21, f"reboot-break-glass-{at}", "reboot, Airflow stays down, break-glass is typed again, rollback of a live run",
          "manual rollback of a live run", RESTORED, RELEASED)  # fmt: skip
    def _(trial: Trial) -> list[Result]:
        run_id = trial.cutover()
        trial.wait(run_id)
        reboot.power_cut(trial.site)
        reboot.boot(trial.site)
        walk = Walk(trial, ["open_rollback", *ROLLBACK_STEPS, "close_rollback"], at)
        while True:
            # Killed at the end of close_rollback, the run is closed: the command says so, and changes nothing.
            closed = (trial.evidence(run_id).sealed or {}).get("outcome") == "rolled_back"
            process = trial.break_glass(run_id)
            pids = walk.next(partial(exited, process))
            if not pids:
                break
            trial.reboot(airflow=False, also=pids)
        status = trial.wait_for_command(process)
        trial.require(status == (2 if closed else 0), f"break-glass ended with status {status}")
        trial.start_airflow()
        return walk.finished()


for _at in ("begin", "end"):
    reboot_rolling_back(_at)


def forward_steps(way: str) -> list[str]:
    """Steps from the stop of the services to the first decision, or from there to the end; of the copy one stream."""
    steps = steps_of_cutover()
    stop, decide = steps.index(runbook.STOP_SERVICES), steps.index("decide")
    found = steps[stop:decide] if way == "proof" else steps[decide:]
    return [step for step in found if not runbook.is_copy(step) or step == "copy.ping_results.0"]


def reboot_forward(way: str) -> None:
    """The host reboots at the end of every step of a run that goes forward."""
    words = {"proof": "from the stop to the proof", "live": "from the decision to the end"}[way]

    @cell(21, f"reboot-forward-{way}", "reboot, Airflow comes back; a run that went back is followed by the next", words,
          LIVE, RESTORED, RELEASED)  # fmt: skip
    def _(trial: Trial) -> list[Result]:
        walk = Walk(trial, forward_steps(way), "end")
        while walk.left:
            already = len(walk.results)
            run_id = trial.cutover()
            while walk.next(lambda run_id=run_id: trial.state(run_id) in ("success", "failed")):  # type: ignore[misc]
                trial.reboot()
            trial.wait(run_id)
            if not trial.evidence(run_id).sealed:
                trial.wait(trial.rollback(run_id))
            if already == len(walk.results):
                break
            problems = trial.verdict().problems
            for result in walk.results[already:]:
                result.problems += problems
                result.survived = not result.problems
            if walk.left:
                make_ready(trial, run_id)
        return walk.finished()


for _way in ("proof", "live"):
    reboot_forward(_way)


def make_ready(trial: Trial, run_id: str) -> None:
    """Bring the application back to SQLite and close the incident, so that the next cutover opens; forget older backups."""
    if (trial.evidence(run_id).sealed or {}).get("outcome") == "live":
        trial.wait(trial.rollback(run_id))
    close_incidents("ward_ops")
    for folder in ("backups", "second_copy"):
        for path in (trial.folder / folder).rglob("*.bak"):
            path.unlink()
