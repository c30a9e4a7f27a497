"""The host of the containers loses power in the middle of runs, and everything starts by its restart policy.

After each run: one of the two ends, after one clear or one repetition of the command at most. Both databases are compared
from outside; the application writes, is restarted and reads; every row that it had acknowledged is there, or is named.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence

import psycopg

from include.cutover.files import slug
from tests.faults.acknowledged import Ledger, events_in, rows_of_sqlite, rows_of_target
from tests.stack.power import HEALTHY_SECONDS, WATCHER, Cuts, Instant, boot, power_cut
from tests.stack.site import AFTERCARE, CUTOVER, PLAN, ROLLBACK, STATE, Site
from tests.stack.telling import require, say

SQLITE, POSTGRESQL = "sqlite", "postgresql"
RESTORED, REVERT = "rollback.restore_source", "rollback.revert_configuration"

SWITCHED = Instant("right after the switch of the configuration", "step.end", "switch_configuration", POSTGRESQL,
                   before="start_services")  # fmt: skip
FORWARD = (
    Instant("before the stop, as the gate opens", "gate.asked", "go_no_go", SQLITE, before="stop_services", writes=True),
    Instant("during the copy", "step.begin", "copy.ping_results.0", SQLITE, before="build_keys_and_indexes"),
    Instant("at the open gate", "gate.asked", "approve", SQLITE, before="switch_configuration", waits=True),
    SWITCHED,
)
"""In the order in which a run reaches them."""

IN_AFTERCARE = Instant("in the aftercare", "aftercare.look", "", POSTGRESQL, aftercare=True, writes=True)
BACK_FROM_LIVE = Instant(
    "in a rollback of a live run, with the file restored", "step.end", RESTORED, POSTGRESQL, before=REVERT
)
BACK_BY_ITSELF = Instant("in an automatic rollback, with the file restored", "step.end", RESTORED, SQLITE, before=REVERT)
BREAK_GLASS = Instant("during break-glass, while the file is restored", "step.begin", RESTORED, POSTGRESQL, before=REVERT,
                      after="rollback.stop_services")  # fmt: skip
ON = {"live": POSTGRESQL, "rolled_back": SQLITE}


def sample(site: Site) -> None:
    """Reboot at the most telling moments: after the switch, in a manual and in an automatic rollback."""
    run = cuts_over(site, [SWITCHED])
    run.goes_back([BACK_FROM_LIVE])
    site.close_incident()
    goes_back_by_itself(site)


def every(site: Site) -> None:
    """Reboot at every moment."""
    run = cuts_over(site, FORWARD)
    run.is_watched([IN_AFTERCARE])
    run.goes_back([BACK_FROM_LIVE])
    run.goes_back_again()
    site.close_incident()
    goes_back_by_itself(site)
    breaks_the_glass(site)


def under_celery(site: Site) -> None:
    """Reboot during the copy, with the tasks in two workers and their broker."""
    run = cuts_over(site, FORWARD[1:2])
    run.goes_back([])
    site.close_incident()


# --- a run and its end ---------------------------------------------------------------------------------------------------


class Run:
    """A cutover and what was done with it, with the rows that the application acknowledged meanwhile."""

    def __init__(self, site: Site, words: str) -> None:
        """Note the state before and let the application write; then the lead triggers the cutover."""
        self.site = site
        self.ledger = Ledger(site.ward_ops)
        require(len(self.ledger.write(3)) == 3, "the application acknowledges rows before the run", site.health())
        self.before = site.snapshot(f"before-{slug(words)}")
        self.id = site.lead.trigger(CUTOVER, {"approve": "ask", "reason": f"stack test: {words}"})
        say(f"cutover {self.id}, {words}")

    @property
    def outcome(self) -> str:
        """The outcome in the evidence; ``open`` without one."""
        return str((self.site.evidence(self.id).sealed or {}).get("outcome", "open"))

    def ends(
        self,
        instants: Sequence[Instant],
        dag_id: str = CUTOVER,
        run_id: str = "",
        *,
        before_go: Callable[[], None] | None = None,
    ) -> list[Instant]:
        """Follow a run of Airflow that acts on this cutover until it has ended, with cuts; return those that were made.

        A run that ended without an end of the cutover is cleared once, from its red tasks.

        Args:
            instants: The moments of the cuts.
            dag_id: The DAG.
            run_id: Its run; the cutover itself where it is left out.
            before_go: Done before the question whether to stop the services is answered.
        """
        run_id = run_id or self.id
        with Cuts(self.site, self.ledger, self.id, instants) as cuts:
            state = self.site.follow(dag_id, run_id, before_go=before_go, check=cuts.check, seconds=2400)
        if self.outcome in ("open", "failed"):
            red = sorted({task.task_id for task in self.site.lead.tasks(dag_id, run_id) if task.state == "failed"})
            say(f"  {dag_id} is {state} and the cutover {self.outcome}: the lead clears {', '.join(red)}")
            say(f"    {self.site.red_tasks(dag_id, run_id)[-3000:]}")
            self.site.clear(dag_id, run_id, red)
            state = self.site.follow(dag_id, run_id, seconds=1200)
        good = "live" if dag_id == CUTOVER else "rolled_back"
        require((state == "success") == (self.outcome == good), "Airflow's colour is the truth", f"{self.outcome}, {state}")
        return cuts.done

    def judge(self) -> None:
        """Compare both ends from outside, restart the application, and look for every acknowledged row."""
        outcome = self.outcome
        require(outcome in ON, "it ended live or rolled back", outcome)
        decision = self.site.evidence(self.id).last("decision") or {}
        if decision.get("outcome") == "rollback":
            say(f"  why it went back: {decision['why']}")
        self.site.judge(self.id, outcome, self.before)
        self._starts_again(ON[outcome])
        kept = self.ledger.judged(self._rows(outcome), self._evidence())
        require(not kept.lost, "every acknowledged row is there or named", "; ".join(kept.lost))
        say(f"  of {len(self.ledger.rows)} rows that the application acknowledged {kept.live} are there, {kept.named} named")

    def _starts_again(self, database: str) -> None:
        """Let the application write, restart its container, and read the row."""
        site = self.site
        written = self.ledger.write(1)
        require(
            bool(written) and written[0].on == database, f"the application writes on {database}", written or site.health()
        )
        before = self.ledger.read(written[0].id)
        site.project.restart("ward-ops")
        site.until(lambda: site.health().get("status") == "ok", "the application is well after a restart", HEALTHY_SECONDS)
        require(site.health().get("database") == database, f"after a restart it is on {database}", site.health())
        require(self.ledger.read(written[0].id) == before is not None, "after a restart it reads its row", before)

    def _rows(self, outcome: str) -> dict[int, tuple[str, str]]:
        if outcome == "live":
            return rows_of_target(psycopg.conninfo.make_conninfo(**self.site.target_address()))
        return rows_of_sqlite(self.site.snapshot(f"rows-{slug(self.id)}"))

    def _evidence(self) -> list[list[dict[str, object]]]:
        folder = self.site.folder / "all-evidence"
        return events_in(self.site.project.fetch(WATCHER, f"{STATE}/evidence/{PLAN}", folder))

    # --- after go-live ---------------------------------------------------------------------------------------------------

    def is_watched(self, instants: Sequence[Instant]) -> None:
        """Follow the aftercare to its end: the application stays live on PostgreSQL, and starts on it by itself."""
        with Cuts(self.site, self.ledger, self.id, instants) as cuts:
            state = self.site.follow(AFTERCARE, f"aftercare__{self.id}", check=cuts.check, answer="Stay live", seconds=1200)
        require(len(cuts.done) == len(instants), "power was cut in the aftercare", state)
        closed = self.site.events(instants[0].events(self.id))[-1]
        say(f"  the aftercare ended {state}: {closed.get('summary') or closed.get('outcome') or closed['event']}")
        self.judge()

    def goes_back(self, instants: Sequence[Instant]) -> None:
        """Roll back by hand."""
        self.ledger.write(2)
        again = self.site.lead.trigger(ROLLBACK, {"reason": "stack test: back again"})
        say(f"rollback {again}")
        done = self.ends(instants, ROLLBACK, again)
        require(len(done) == len(instants), "power was cut in the rollback", done)
        require(self.outcome == "rolled_back", "it is rolled back", self.outcome)
        self.judge()

    def goes_back_again(self) -> None:
        """After the rollback has ended the application writes, the host reboots, and somebody rolls back again: refused."""
        require(len(self.ledger.write(3)) == 3, "the application writes on SQLite after the rollback", self.site.health())
        running = self.site.project.running()
        by_hand = power_cut(self.site.project, running)
        say(f"  power is cut after the end of the rollback: {len(running)} containers")
        boot(self.site.project, running, by_hand=by_hand)
        self.site.until(lambda: self.site.health().get("status") == "ok", "the application comes up by itself", 60)
        require(len(self.ledger.write(2)) == 2, "it writes again", self.site.health())
        again = self.site.lead.trigger(ROLLBACK, {"reason": "stack test: and again", "run_id": self.id})
        say(f"rollback {again}, of the run that is rolled back")
        state = self.site.follow(ROLLBACK, again)
        logs = "".join(self.site.lead.log(ROLLBACK, again, task) for task in self.site.lead.tasks(ROLLBACK, again))
        refused = "there is nothing to roll back" in logs and "it ended as rolled_back" in logs
        require(state == "failed" and refused, "a second rollback is refused, with the reason", f"{state}: {logs[-1500:]}")
        say("  refused: it is rolled back already, and nothing was changed")
        self.judge()


# --- scenes --------------------------------------------------------------------------------------------------------------


def cuts_over(site: Site, instants: Sequence[Instant]) -> Run:
    """Cut over with a power cut at each of the instants, in as many runs as it takes; return the last one, which is live."""
    left = list(instants)
    while True:
        run = Run(site, f"reboots: {left[0].words}" if left else "no reboot")
        done = run.ends(left)
        run.judge()
        require(bool(done) or not left, "the run reached the next moment", left[:1])
        left = left[len(done) :]
        if run.outcome == "live" and not left:
            return run
        if run.outcome == "live":
            run.goes_back([])
        site.close_incident()


def goes_back_by_itself(site: Site) -> None:
    """An orphan after the checks, and a power cut in the rollback; the application writes on the restored file."""
    run = Run(site, "reboots: orphans")

    def plant() -> None:
        site.plant_orphan()
        run.before = site.snapshot("before-reboots-orphans")

    done = run.ends([BACK_BY_ITSELF], before_go=plant)
    require(len(done) == 1, "power was cut in the rollback", run.outcome)
    require(run.outcome == "rolled_back", "it is rolled back", run.outcome)
    run.judge()
    site.mend_orphan()
    site.close_incident()


def breaks_the_glass(site: Site) -> None:
    """The scheduler is stopped, break-glass typed as docs/deployment.md says, power cut, the command typed again."""
    run = Run(site, "for break-glass")
    run.ends([])
    require(run.outcome == "live", "the run is live", run.outcome)
    run.ledger.write(2)
    site.project.compose("stop", "scheduler")
    ended = threading.Event()

    def typed() -> subprocess.CompletedProcess[str]:
        folder = f"{STATE}/evidence/{PLAN}/{slug(run.id)}"
        command = ["rollback", "--plan", PLAN, "--evidence", folder, "--reason", "stack test"]
        return site.project.compose("--profile", "break-glass", "run", "--rm", "-T", "break-glass", *command, check=False)

    def booted(_: Instant) -> None:
        state = site.project.command("status", check=False)
        require(state.returncode == 1 and "run it again" in state.stdout, "status says what to do", state.stdout)
        ended.set()

    with Cuts(site, run.ledger, run.id, [BREAK_GLASS], booted) as cuts:
        first = typed()
        require(bool(cuts.done), "power was cut during the command", first.stdout + first.stderr)
        while not ended.wait(1):
            cuts.check()
    require(first.returncode != 0, "the first command was killed", first.stdout + first.stderr)
    again = typed()
    require(again.returncode == 0, "the command, typed again, goes back", again.stdout + again.stderr)
    say("  break-glass, typed again after the reboot, has gone back")
    site.project.compose("start", "scheduler")
    site.project.wait_healthy("scheduler", HEALTHY_SECONDS)
    require(run.outcome == "rolled_back", "it is rolled back", run.outcome)
    run.judge()
    site.close_incident()
