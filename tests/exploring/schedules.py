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

from include.cutover.evidence.record import EVENTS
from include.cutover.stack.postgres import Cluster
from tests.exploring.ending import Ending
from tests.exploring.judging import Before
from tests.exploring.others import Others
from tests.exploring.points import Fault
from tests.exploring.site import PLAN, Site
from tests.exploring.walking import TERMINAL, Instance, Run, downstream
from tests.support.incidents import close_incidents

STUCK_SECONDS = 0.4
STEPS = 60  # attempts of a run and its rollback, more or less
WALK = 45  # attempts of a run without its rollback, more or less
FOCUS = (
    *(
        "quiesce.stop_services",
        "quiesce.fence_source",
        "take_backup",
        "verify.check_tables",
        "verify.validate_foreign_keys",
        "decide",
    ),
    *("go_live.switch_configuration", "go_live.start_services", "rollback.stop_services", "rollback.keep_target"),
    *("rollback.restore_source", "rollback.restore_source", "rollback.revert_configuration", "rollback.start_services"),
)
"""Tasks behind which others act more often than chance has it: there the files and rights have just changed."""


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
        return f"seed {self.seed} ended {self.ended} in {self.seconds:.1f} s\n{faults}\n  {again}\n  what happened:\n{trace}"


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
        self.others = Others(self.site, self.random)
        self._draw_others()

    def _draw_others(self) -> None:
        """Draw before which attempts others act, which attempts are at work when the host goes down, and the way back."""
        some = self.random.random() < 2 / 3
        self.deeds = self._some_of(WALK, self.random.choice((0, 1, 1, 2, 3, 4)) if some else 0)
        self.reboots = self._some_of(WALK, self.random.choice((0, 0, 1, 1, 2)) if some else 0)
        self.back_at = self._some_of(WALK, self.random.choice((0, 1)) if some else 0)
        self.focus = self.random.choice(FOCUS) if some and self.random.random() < 0.4 else ""
        if self.focus.startswith("rollback."):
            self.back_at = self._some_of(WALK, 1)
        self.let_go_at = 0
        self.site.shop.creates = some and self.random.random() < 0.3

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
                self._start_postgresql()
                Ending(self, before).play()
            except Exception as error:  # noqa: BLE001  # a schedule that cannot be played is a finding
                self.result.faults.append(f"{type(error).__name__}: {error}")
            if self.result.faults:
                self._keep()
        finally:
            self._start_postgresql()
            self.others.close()
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
            if self.world.went_down:
                self.others.reboot()
                self._go_on_after_reboot()
                continue
            if changed:
                still_since = time.monotonic()
            ready = [(run, instance) for run in self.world.runs for instance in run.ready()]
            room = bool(ready) and len(self.world.at_work) < self.parallel
            # What is random is decided where something changed, never by how often somebody looked.
            if room:
                still_since = time.monotonic()
                if happens := self._due():
                    happens()
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

    def _due(self) -> Callable[[], None] | None:
        """Return what happens before the next attempt."""
        drawn: tuple[tuple[list[int], Callable[[], list[Callable[[], None]]]], ...] = (
            (self.back_at, lambda: [self.roll_back, self._break_glass]),
            (self.eventful, self._events),
            (self.deeds, lambda: [*self.others.deeds(), *[self._back_again] * 5]),
        )
        for due, what in drawn:
            if due and self.started >= due[0]:
                del due[0]
                return self.random.choice(what())
        found = [item for run in self.world.runs for item in run.of(self.focus)] if self.focus else []
        if any(item.state == "success" for item in found):
            self.focus = ""
            return self.random.choice((*self.others.deeds(), *[self._go_down_soon] * 6))
        return None

    def _go_down_soon(self) -> None:
        """The host goes down in one of the next attempts; and when it is up again, somebody repeats a way back."""
        self.reboots = [self.started, *self.reboots]
        self.deeds = [self.started + 1, *self.deeds]

    def _start(self, run: Run, instance: Instance) -> None:
        self.started += 1
        if self.back_up_at and self.started >= self.back_up_at:
            self._start_postgresql()
        if self.others.holders:
            self.let_go_at = self.let_go_at or self.started + self.random.randrange(1, 8)
            if self.started >= self.let_go_at:
                self.others.let_go()
                self.let_go_at = 0
        fault = None
        if self.hurt and self.started >= self.hurt[0]:
            del self.hurt[0]
            fault = self._fault()
        if self.reboots and self.started >= self.reboots[0]:
            del self.reboots[0]
            fault = Fault(int(math.exp(self.random.uniform(0, math.log(120)))) - 1, signal.SIGKILL, reboot=True)
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
        many += [self.roll_back, self.roll_back, self._break_glass, self._break_glass, self._second_run, self._tear]
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

    def _go_on_after_reboot(self) -> None:
        """Airflow tries again by itself; or a person clears what did not pass, or rolls back."""
        chance = self.random.random()
        if chance < 0.2:
            self._clear_failed()
        elif chance < 0.4:
            self.roll_back()
        elif chance < 0.55:
            self._break_glass()

    def _clear_failed(self) -> None:
        for run in self.world.runs:
            failed = [instance for instance in run.instances if instance.state in ("failed", "up_for_retry")]
            behind = [other for instance in failed for other in downstream(run, instance)]
            if failed:
                self.world.clear(run, list({id(instance): instance for instance in (*failed, *behind)}.values()))

    def _back_again(self) -> None:
        """A step of a way back is cleared, alone or with those behind it; or there is a second rollback, or break-glass."""
        back = [
            (run, instance)
            for run in self.world.runs
            for instance in run.instances
            if instance.state is not None and instance.task.task_id.startswith(("rollback.", "release."))
        ]
        chance = self.random.random()
        if back and chance < 0.6:
            run, instance = self.random.choice(back)
            self.world.clear(run, [instance, *(downstream(run, instance) if chance < 0.4 else ())])
        elif chance < 0.8:
            self.roll_back()
        else:
            self._break_glass()

    def _mark(self) -> None:
        known = [(run, instance) for run in self.world.runs for instance in run.instances]
        open_ones = [item for item in known if item[1].state not in TERMINAL]
        next_ones = [item for item in open_ones if item[1].state == "running" or item[1] in item[0].ready()]
        wanted = next_ones if self.random.random() < 0.6 else open_ones
        run, instance = self.random.choice(wanted or known)
        self.world.mark(run, instance, self.random.choice(("success", "success", "failed")))

    def roll_back(self) -> None:
        """Trigger the DAG of a rollback, of the last run by its name or by itself."""
        self.rollbacks += 1
        opened = self.site.opened
        subject = opened[-1].folder.name if opened and self.random.random() < 0.5 else None
        self.site.trace.append(f"a rollback of {subject or 'the last run'} is triggered")
        self.site.trigger_rollback(f"rollback{self.rollbacks}", subject)

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
        self.site.start_postgresql()

    def _stop_postgresql(self) -> None:
        self.site.trace.append("PostgreSQL is killed")
        self.cluster.stop(signal.SIGQUIT)
        self.back_up_at = self.started + self.random.randrange(1, 12)

    def _start_postgresql(self) -> None:
        if self.back_up_at:
            self.site.trace.append("PostgreSQL is started")
            self.site.start_postgresql()
            self.back_up_at = 0


def play(seed: int, folder: Path, cluster: Cluster, dags: tuple[Any, ...]) -> Result:
    """Play a schedule."""
    return Schedule(seed, folder, cluster, dags).play()
