"""A machine so slow that heart-beats and health checks come late: tasks are declared dead that still run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from include.cutover.stack.processes import members
from tests.faults.matrix import LIVE, RELEASED, RESTORED, cell
from tests.faults.site import FaultSite
from tests.faults.trial import Trial
from tests.support.patience import RUN_SECONDS

BURNERS = 6
PULSES = 3


@contextlib.contextmanager
def burners() -> Iterator[None]:
    """Let other processes take all the time of the processors."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BURNERS)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def freeze(site: FaultSite, seconds: float, over: threading.Event) -> None:
    """Stop the scheduler and all its workers for longer than a heart-beat may take, then let them go on."""
    with contextlib.suppress(StopIteration):
        found = members([site.leader("scheduler")])
        _stop_for(found, seconds, over)


def freeze_workers(site: FaultSite, seconds: float, over: threading.Event) -> None:
    """Stop the steps alone: the scheduler goes on and misses their heart-beats."""
    found = site.step_pids()
    found |= {pid for pid in members([site.leader("scheduler")]) if _parent(pid) in found or pid in found}
    found |= {parent for pid in site.step_pids() if (parent := _parent(pid)) is not None}
    found -= {site.leader("scheduler").pid}
    _stop_for(found, seconds, over)


def _stop_for(pids: Iterable[int], seconds: float, over: threading.Event) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            over.wait(seconds)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return int(file.read().rpartition(")")[2].split()[1])
    return None


@contextlib.contextmanager
def pulses(trial: Trial) -> Iterator[None]:
    """Freeze scheduler and workers by turns, each time longer than a task may miss its heart-beat."""
    over = threading.Event()

    def beat() -> None:
        for number in range(2 * PULSES):
            if over.wait(2):
                return
            (freeze if number % 2 else freeze_workers)(trial.site, trial.site.pulse.task + 4, over)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def slow(name: str, words: str, how: str) -> None:
    """The whole of a cutover, its gate, and the whole of a rollback."""

    @cell(27, f"slow-{name}-cutover", words, "from copy on", LIVE, RESTORED, RELEASED)
    def _(trial: Trial) -> None:
        with contextlib.ExitStack() as stack:
            with trial.held_at("copy.ping_results.0", "middle") as run_id:
                stack.enter_context(burners() if how == "burn" else pulses(trial))
            trial.wait(run_id, 2 * RUN_SECONDS)

    @cell(27, f"slow-{name}-gate", f"{words}; the lead says Go", "at approve", LIVE, RESTORED)
    def _(trial: Trial) -> None:
        run_id = trial.cutover("ask")
        trial.answer(run_id, "go_no_go")
        gate = trial.gate(run_id, "approve")
        with burners() if how == "burn" else pulses(trial):
            trial.fault()
            trial.lead.answer("cutover_ward_ops", run_id, gate, "Go")
            trial.wait(run_id, 2 * RUN_SECONDS)

    @cell(27, f"slow-{name}-rollback", f"{words}, manual rollback of a live run", "rollback", RESTORED)
    def _(trial: Trial) -> None:
        trial.wait(trial.cutover())
        with contextlib.ExitStack() as stack:
            with trial.held_at("rollback.restore_source", "begin", start=trial.rollback) as back:
                stack.enter_context(burners() if how == "burn" else pulses(trial))
            trial.wait(back, 2 * RUN_SECONDS)


slow("burners", f"{BURNERS} other processes take the processors", "burn")
slow("pulses", "scheduler and steps stand still by turns, for longer than a heart-beat may take", "freeze")
