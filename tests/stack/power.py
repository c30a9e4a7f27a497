"""Power cuts of the whole stack at exact moments of a run, and the start of its containers by their restart policy."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from include.cutover.errors import StepFailed
from include.cutover.files import slug
from tests.faults.acknowledged import Ledger
from tests.stack.engine import Container, Project
from tests.stack.site import CUTOVER, PLAN, STATE, Site

# Runs in a container that sees the evidence; ends when its standard input does.
_WATCH = """
import json, select, sys
path, event, name = sys.argv[1:]
while not select.select([sys.stdin], [], [], 0.02)[0]:
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\\n")[:-1]
    except FileNotFoundError:
        continue
    found = [json.loads(line) for line in lines]
    if any(each["event"] == event and name in (each.get("step"), each.get("gate"), "") for each in found):
        print("now", flush=True)
        break
"""
WATCHER = "dag-processor"  # sees the evidence, and runs no step
HEALTHY_SECONDS = 600.0  # a busy machine starts slowly; a part that cannot start does not start in this time either
_AFTER_BOOT = 20.0  # seconds in which the application comes up by itself, or not


@dataclass(frozen=True)
class Instant:
    """A moment of a run, as its evidence shows it.

    Attributes:
        words: The moment in words.
        event: The event at which power is cut.
        name: Step or gate of the event; empty for any.
        before: A step that must not have begun when power was cut; empty where none is near.
        configured: The database that the application's configuration names at that moment.
        aftercare: True for an event of the aftercare's evidence.
        after: A step that begins before the event, and with which the containers are listed once more; empty for none.
        writes: True where the application runs at that moment: rows are written right before power is cut.
        waits: True for a gate: power is cut when its question is open in Airflow, and no process of the step is left.
    """

    words: str
    event: str
    name: str
    configured: str
    before: str = ""
    aftercare: bool = False
    after: str = ""
    writes: bool = False
    waits: bool = False

    def events(self, run_id: str) -> str:
        """Return the path of the evidence's events in a container."""
        place = f"aftercare/{PLAN}" if self.aftercare else PLAN
        return f"{STATE}/evidence/{place}/{slug(run_id)}/events.jsonl"


# --- the host ------------------------------------------------------------------------------------------------------------


def power_cut(project: Project, running: Sequence[Container]) -> bool:
    """Kill every container at once, without a word to the engine; return True where the engine had to do it.

    An engine counts a container that it killed on command as stopped by a person, and does not start it by its policy.
    """
    if not all(map(_is_ours, running)):
        project.kill([container.id for container in running])
        return True
    for container in running:
        os.kill(container.pid, signal.SIGKILL)  # the first process of its namespace: all others die with it
    return False


def _is_ours(container: Container) -> bool:
    """Report whether its first process is on this host and may be killed: an engine may run in a virtual machine."""
    try:
        os.kill(container.pid, 0)
        return container.id in Path(f"/proc/{container.pid}/cgroup").read_text()
    except OSError:
        return False


def boot(project: Project, were: Sequence[Container], *, by_hand: bool) -> None:
    """Wait until each container with a restart policy runs again, in whatever order, and is healthy; no other may run.

    Args:
        project: The project.
        were: The containers that ran when power was cut.
        by_hand: Start them here, all at once in a random order, because the engine holds them for stopped.

    Raises:
        StepFailed: With the containers that did not start, or did not become healthy.
    """
    wanted = {item.id: item for item in were if item.restarts}
    if by_hand:
        project.start_again(random.sample(sorted(wanted), len(wanted)))
    deadline = time.monotonic() + 120
    while True:
        now = {item.id: item for item in project.running()}
        missing = [item.service for key, item in wanted.items() if key not in now or now[key].pid == item.pid]
        if not missing:
            break
        if time.monotonic() > deadline:
            raise StepFailed("containers did not start again by their restart policy", found=", ".join(missing))
        time.sleep(0.5)
    beside = sorted(item.service for key, item in now.items() if key not in wanted)
    if beside:
        raise StepFailed("containers started that a person had stopped, or that are no services", found=", ".join(beside))
    for item in wanted.values():
        project.wait_healthy(item.service, HEALTHY_SECONDS)


# --- cuts during a run ---------------------------------------------------------------------------------------------------


@dataclass
class Cuts:
    """Cuts power at the instants of a run, one after the other, and lets the host boot each time, beside the block.

    Args:
        site: The site.
        ledger: Gets the rows that the application acknowledges right before a cut, and after the boot.
        run_id: The cutover's run.
        instants: In the order in which the run reaches them.
        booted: Called after each boot.
    """

    site: Site
    ledger: Ledger
    run_id: str
    instants: Sequence[Instant]
    booted: Callable[[Instant], None] = lambda _: None
    done: list[Instant] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._watch: subprocess.Popen[str] | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._end_watch()
        self._thread.join(HEALTHY_SECONDS)
        if self._error is not None and self._error is not error:
            raise self._error from error

    def check(self) -> None:
        """Raise the error of a cut or a boot, where there was one."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for instant in self.instants:
                if instant.after and not self._reached("step.begin", instant.after, instant):
                    return
                running = self.site.project.running()
                if not self._reached(instant.event, instant.name, instant):
                    return
                if instant.waits:
                    self.site.until(lambda gate=instant.name: self._is_open(gate), "the gate is open", 60)  # type: ignore[misc]
                self._cut(instant, running)
        except Exception as error:  # noqa: BLE001 - raised again where the block ends
            self._error = error

    def _reached(self, event: str, name: str, instant: Instant) -> bool:
        """Wait for the event; return False when the block ended before."""
        self._watch = self.site.project.begin(WATCHER, "python", "-c", _WATCH, instant.events(self.run_id), event, name)
        if self._over.is_set():
            self._end_watch()
        assert self._watch.stdout is not None
        return self._watch.stdout.readline().strip() == "now"

    def _is_open(self, gate: str) -> bool:
        gates = self.site.lead.gates(CUTOVER, self.run_id)
        return any(each.task_id.rpartition(".")[2] == gate and each.answer is None for each in gates)

    def _end_watch(self) -> None:
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.stdin.close()

    def _cut(self, instant: Instant, running: Sequence[Container]) -> None:
        if instant.writes:
            self.ledger.write(2)
        began, when = time.monotonic(), time.time()
        by_hand = power_cut(self.site.project, running)
        self.done.append(instant)
        self.site.say(f"  power is cut {instant.words}: {len(running)} containers")
        boot(self.site.project, running, by_hand=by_hand)
        self.site.say(f"    every container with a restart policy is healthy again, after {time.monotonic() - began:.0f} s")
        self._in_time(instant, when)
        configured = self.site.configured()
        if configured != instant.configured:
            raise StepFailed(
                "the configuration names another database",
                where=instant.words,
                expected=instant.configured,
                found=configured,
            )
        self.site.say(f"    the application is configured for {configured} and came up by itself: {self._came_up()}")
        self.ledger.write(2)
        self.booted(instant)

    def _in_time(self, instant: Instant, when: float) -> None:
        """Refuse a cut that came too late: then another moment was tried."""
        found: list[dict[str, Any]] = self.site.events(instant.events(self.run_id))
        late = [
            event
            for event in found
            if event["event"] == "step.begin"
            and instant.before == event["step"]
            and datetime.fromisoformat(event["time"]).timestamp() < when
        ]
        if late:
            raise StepFailed("power was cut too late", where=instant.words, found=f"{instant.before} had begun")

    def _came_up(self) -> str:
        deadline = time.monotonic() + _AFTER_BOOT
        health = self.site.health()
        while health.get("status") != "ok" and time.monotonic() < deadline:
            time.sleep(1)
            health = self.site.health()
        return f"{health.get('status')}, {health.get('database', 'no database')}"
