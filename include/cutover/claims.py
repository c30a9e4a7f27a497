"""One attempt of a step at a time, and no step of an old holder beside a rollback: kernel locks that end with the process.

Airflow may start a retry while the first attempt, declared dead, still works. Each attempt therefore claims its step, and
waits for its predecessor. Every step also holds the plan's lock in shared mode; a rollback that took the lease over waits
until it can have that lock alone once, and by then no step of the run before is in flight.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.cutover.errors import Unreachable
from include.cutover.evidence import evidence_root, slug

WAIT_SECONDS = 120.0
PAUSE_SECONDS = 0.1


@contextmanager
def claim(plan: str, run_id: str, step: str, *, shared: bool = True) -> Iterator[None]:
    """Hold the claim on a step of a run while the block runs.

    Args:
        shared: Also hold the plan's lock in shared mode; the opening of a rollback does not, as it waits for that lock.

    Raises:
        Unreachable: When a predecessor did not end within two minutes; trying again may help.
    """
    folder = evidence_root() / plan / ".claims"
    with _lock(folder / f"{slug(run_id)}.{slug(step)}", fcntl.LOCK_EX, f"step {step}"):
        if not shared:
            yield
            return
        with _lock(folder / "plan", fcntl.LOCK_SH, f"plan {plan}"):
            yield


def wait_for_others(plan: str) -> None:
    """Return once no step of the plan is in flight on this host.

    Raises:
        Unreachable: When one still is after two minutes.
    """
    with _lock(evidence_root() / plan / ".claims" / "plan", fcntl.LOCK_EX, f"plan {plan}"):
        return


@contextmanager
def _lock(path: Path, mode: int, what: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unreachable(
                        "another attempt is still at work",
                        where=what,
                        expected=f"its end within {WAIT_SECONDS:g} s",
                        do="End that process (its pid is in the newest step.begin of the evidence), then clear this task.",
                    ) from None
                time.sleep(PAUSE_SECONDS)
        if mode == fcntl.LOCK_EX:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
