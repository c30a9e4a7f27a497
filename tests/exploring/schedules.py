"""One schedule: a cutover, and everything that a seed lets happen to it; then the judge.

All that is random comes from the seed. The order of two processes at the same time is the operating system's
choice; most schedules therefore let one thing happen at a time, and those are replayed exactly.
"""

from __future__ import annotations

import math
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.runs.verdict import has_touched
from include.cutover.stack.postgres import Cluster
from tests.exploring.judging import Before, Judge
from tests.exploring.points import Fault
from tests.exploring.site import PLAN, Site, plan_file
from tests.exploring.walking import TERMINAL, Instance, Run, downstream
from tests.support.incidents import close_incidents

STUCK_SECONDS = 0.4
STEPS = 60  # attempts of a run and its rollback, more or less
POSTGRESQL = {"fsync": "off", "full_page_writes": "off"}  # what is committed survives a kill of the server


@dataclass
class Result:
    """The end of a schedule.

    Attributes:
        ended: How the run ended; and how the one afterwards did.
        faults: The judge's findings; empty when all is well.
        kept: Where the evidence of a failure lies.
        seconds: How long it took.
    """

    seed: int
    ended: str = ""
    faults: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    kept: Path | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = "\n".join(f"  - {fault}" for fault in self.faults)
        trace = "\n".join(f"    {line}" for line in self.trace)
        again = f"again: python -m tests.exploring 1 --seed {self.seed} --verbose; kept in {self.kept}"
        return f"seed {self.seed} ended {self.ended}\n{faults}\n  {again}\n  what happened:\n{trace}"


class Schedule:
    """Plays one seed on a site of its own."""

    def __init__(self, seed: int, folder: Path, cluster: Cluster, dags: tuple[Any, ...]) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.cluster = cluster
        self.site = Site(folder, cluster, dags, wal=self.random.random() < 0.5)
        self.world = self.site.world
        self.result = Result(seed, trace=self.site.trace)
        self.letting_go = random.Random(seed + 1)  # when it is asked is a matter of time; the others must not depend on that
        self.parallel = 1 if self.random.random() < 0.6 else 3
        # Which of the attempts are hurt, and before which of them something happens.
        self.hurt = self._some_of(STEPS, self.random.choice((0, 1, 1, 2, 2, 3, 4, 6)))
        self.eventful = self._some_of(STEPS, self.random.choice((0, 1, 1, 2, 2, 3, 4, 6)))
        self.back_up_at = 0
        self.rollbacks = 0
        self.started = 0

    def _some_of(self, many: int, number: int) -> list[int]:
        return sorted(self.random.randrange(1, many) for _ in range(number))

    def play(self) -> Result:
        """Play it to its end and let the judge look."""
        begun = time.monotonic()
        self.site.open()
        try:
            before = Before.of(self.site)
            try:
                self._disturbed()
                outcome = self._brought_to_an_end()
                self.result.ended = outcome
                self.result.faults = Judge(self.site, before).verdict(outcome)
                if not self.result.faults and self.random.random() < 0.25:
                    self._again(before, outcome)
            except Exception as error:  # noqa: BLE001  # a schedule that cannot be played is a finding
                self.result.faults.append(f"{type(error).__name__}: {error}")
            if self.result.faults:
                self._keep()
        finally:
            self._start_postgresql()
            self.site.close()
            self.result.seconds = time.monotonic() - begun
        return self.result

    def _keep(self) -> None:
        """Return the traces of a failure, for the search of its cause."""
        kept = Path(tempfile.gettempdir()) / "exploring" / f"seed-{self.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.site.folder, kept, ignore_dangling_symlinks=True)
        self.result.kept = kept

    # -- while things go wrong

    def _disturbed(self) -> None:
        ask = self.random.random() < 0.15
        first = self.site.trigger("cutover", approve="ask" if ask else "auto")
        if ask:
            for gate in ("go_no_go", "approve"):
                first.answers[gate] = self.random.choice(
                    (("Go", "lead"), ("Go", "lead"), ("No-go", "lead"), ("Go", "observer"))
                )
        still_since = time.monotonic()
        while True:
            changed = self.world.look()
            if changed:
                still_since = time.monotonic()
            ready = [(run, instance) for run in self.world.runs for instance in run.ready()]
            room = bool(ready) and len(self.world.at_work) < self.parallel
            # What is random is decided where something changed, never by how often somebody looked.
            if room:
                still_since = time.monotonic()
                if self.eventful and self.started >= self.eventful[0]:
                    del self.eventful[0]
                    self.random.choice(self._events())()
                elif self.world.stopped and self.random.random() < 0.15:
                    self._let_go()
                else:
                    self._start(*self.random.choice(ready))
                continue
            if self.world.stopped and (not self.world.at_work or time.monotonic() > still_since + STUCK_SECONDS):
                still_since = time.monotonic()
                self._let_go()
                continue
            if not ready and not self.world.attempts:
                break
            if time.monotonic() > still_since + 60:
                raise AssertionError(f"hangs: {', '.join(attempt.name for attempt in self.world.attempts)}")
            if not changed:
                self.world.wait()

    def _start(self, run: Run, instance: Instance) -> None:
        self.started += 1
        if self.back_up_at and self.started >= self.back_up_at:
            self._start_postgresql()
        fault = None
        if self.hurt and self.started >= self.hurt[0]:
            del self.hurt[0]
            fault = self._fault()
        if fault is None and not self.world.attempts:
            self.world.carry_out(run, instance)
        else:
            self.world.start(run, instance, fault)

    def _fault(self) -> Fault:
        kind = signal.SIGKILL if self.random.random() < 0.7 else signal.SIGSTOP
        if self.random.random() < 0.12:
            return Fault(None, kind)
        if kind is signal.SIGKILL and self.random.random() < 0.2:
            return Fault(0, kind, math.exp(self.random.uniform(0, math.log(80))))
        return Fault(int(math.exp(self.random.uniform(0, math.log(160)))) - 1, kind)

    def _let_go(self) -> None:
        """Something stands still: Airflow tries the task again, or it goes on, or it is killed."""
        attempt = self.letting_go.choice(self.world.stopped)
        chance = self.letting_go.random()
        if attempt.instance is not None and not attempt.dead and chance < 0.6:
            self.world.declare_dead(attempt)
        elif chance < 0.75:
            self.world.kill(attempt)
        else:
            self.world.resume(attempt)

    # -- what people, machines and other runs do

    def _events(self) -> list[Callable[[], None]]:
        many: list[Callable[[], None]] = [self._clear_one, self._clear_one, self._clear_behind, self._mark, self._mark]
        many += [self._roll_back, self._roll_back, self._break_glass, self._break_glass, self._second_run, self._tear]
        many += [self._abort, self._change_plan]
        if self.random.random() < 0.15:
            many += [self._restart_postgresql, self._stop_postgresql]
        return many

    def _some(self) -> tuple[Run, Instance] | None:
        known = [(run, instance) for run in self.world.runs for instance in run.instances if instance.state is not None]
        return self.random.choice(known) if known else None

    def _clear_one(self) -> None:
        if found := self._some():
            self.world.clear(found[0], [found[1]])

    def _clear_behind(self) -> None:
        if found := self._some():
            self.world.clear(found[0], [found[1], *downstream(*found)])

    def _mark(self) -> None:
        known = [(run, instance) for run in self.world.runs for instance in run.instances]
        open_ones = [item for item in known if item[1].state not in TERMINAL]
        next_ones = [item for item in open_ones if item[1].state == "running" or item[1] in item[0].ready()]
        wanted = next_ones if self.random.random() < 0.6 else open_ones
        run, instance = self.random.choice(wanted or known)
        self.world.mark(run, instance, self.random.choice(("success", "success", "failed")))

    def _roll_back(self) -> None:
        self.rollbacks += 1
        self.site.trace.append("a rollback is triggered")
        self.site.trigger_rollback(f"rollback{self.rollbacks}")

    def _break_glass(self) -> None:
        opened = self.site.opened
        if opened:
            evidence = opened[-1]
            fault = self._fault() if self.random.random() < 0.5 else None
            self.world.command("break glass", lambda: self.site.break_glass(evidence), fault)

    def _second_run(self) -> None:
        """Sometimes the lead has looked into the one before; else the new one refuses itself."""
        if self.random.random() < 0.7:
            for run_id in close_incidents(PLAN):
                self.site.trace.append(f"the lead closes the incident of {run_id}")
        self.site.trace.append("a second cutover is triggered")
        self.site.trigger(f"cutover-{len(self.world.runs)}")

    def _tear(self) -> None:
        """A machine that lost its power left a part of an event at the end of the evidence."""
        if not self.world.attempts and self.site.opened:
            file = self.site.opened[-1].folder / EVENTS
            with file.open("ab") as events:
                events.write(b'{"seq":9999,"event":"step.e')
            self.site.trace.append("a torn event")

    def _abort(self) -> None:
        """Somebody marks a run as failed: what is at work is ended, and nothing more is started."""
        run = self.random.choice(self.world.runs)
        self.site.trace.append(f"{run.run_id} is marked as failed")
        self.world.abort(run)

    def _change_plan(self) -> None:
        self.site.trace.append("the plan's file is changed")
        file = self.site.plans / f"{PLAN}.yaml"
        file.write_text(self.random.choice((file.read_text().replace("minutes: 1", "minutes: 2"), "name: [")))

    def _restart_postgresql(self) -> None:
        self.site.trace.append("PostgreSQL is killed and started")
        self.cluster.stop(signal.SIGQUIT)
        self.cluster.start(POSTGRESQL)

    def _stop_postgresql(self) -> None:
        self.site.trace.append("PostgreSQL is killed")
        self.cluster.stop(signal.SIGQUIT)
        self.back_up_at = self.started + self.random.randrange(1, 12)

    def _start_postgresql(self) -> None:
        if self.back_up_at:
            self.site.trace.append("PostgreSQL is started")
            self.cluster.start(POSTGRESQL)
            self.back_up_at = 0

    # -- afterwards

    def _brought_to_an_end(self) -> str:
        """One retry or one rollback; then the last run that opened is at its end."""
        self.site.trace.append("nothing is disturbed any more")
        self._start_postgresql()
        (self.site.plans / f"{PLAN}.yaml").write_text(plan_file(), encoding="utf-8")
        self.world.walk()
        evidence = self._last()
        if evidence is None:
            return "abandoned"
        if not self._ended(evidence):
            first = next(run for run in self.world.runs if evidence.folder.name == run.run_id)
            closing = first.of("close_run")[0]
            glass = self.random.random() < 0.5
            if closing.state != "success" and not has_touched(evidence.events()) and not glass:
                # There is nothing to roll back: the last task is tried once more, and ends the run.
                self.world.clear(first, [closing])
                self.world.walk()
            if not self._ended(evidence):
                if glass:
                    self.world.command("break glass", lambda: self.site.break_glass(evidence))
                else:
                    self._roll_back()
                self.world.walk()
        sealed = evidence.sealed
        for run in self.world.runs:
            if run.dag is self.site.cutover and run.of("close_run")[0].state == "success":
                own = self.site.of(run.run_id)
                marked = any(f"{run.run_id}: marked close_run" in line for line in self.site.trace)
                was_live = any(event["event"] == "sealed" and event["outcome"] == "live" for event in own.events())
                if not was_live and not marked:
                    self.result.faults.append(f"{run.run_id} is green and never was live")
        return "open" if sealed is None else str(sealed["outcome"])

    def _last(self) -> Evidence | None:
        opened = self.site.opened
        return opened[-1] if opened else None

    def _last_run_id(self) -> str:
        last = self._last()
        return "" if last is None else last.folder.name

    @staticmethod
    def _ended(evidence: Evidence) -> bool:
        sealed = evidence.sealed
        return sealed is not None and sealed["outcome"] != "failed"

    def _again(self, before: Before, outcome: str) -> None:
        """An ended run is not an obstacle: a live application goes back, one that is back goes live."""
        if outcome == "live":
            self._roll_back()
            self.world.walk()
            expected = "rolled_back"
        else:
            closed = close_incidents(PLAN)
            if closed != ([self._last_run_id()] if outcome in ("rolled_back", "released") else []):
                self.result.faults.append(f"the incidents that could be closed were {closed}")
            again = self.site.trigger("again")
            self.world.walk()
            if again.state != "success":
                self.result.faults.append("a fresh run does not go live")
            expected = "live"
        last = self._last()
        sealed = last.sealed if last else None
        ended = str(sealed["outcome"]) if sealed else "open"
        self.result.ended += f", then {ended}"
        if ended != expected:
            self.result.faults.append(f"afterwards it ended as {ended}, not {expected}")
        else:
            self.result.faults += Judge(self.site, before).verdict(ended)


def play(seed: int, folder: Path, cluster: Cluster, dags: tuple[Any, ...]) -> Result:
    """Play a schedule."""
    return Schedule(seed, folder, cluster, dags).play()
