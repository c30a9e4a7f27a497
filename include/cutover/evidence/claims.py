"""Claims on steps: one attempt of a step at a time, and no other step beside one that goes back.

Claims are kernel locks, which end with their process. Airflow may start a retry while the first attempt, declared dead,
still works. Each attempt therefore claims its step, waits for its predecessor and kills it when it does not end: every step
may be killed at any instant and run again. Steps that go forward also hold the plan's lock in shared mode. A step that
decides, goes back or closes holds that lock exclusively, so that no forgotten attempt changes anything beside it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from include.cutover.errors import Unreachable
from include.cutover.evidence.record import evidence_root, first_root
from include.cutover.files import disk_errors, slug
from include.cutover.locks import end_holders

WAIT_SECONDS = 120.0  # for an earlier attempt of the same step: it may be about to finish
PATIENCE_SECONDS = 15.0  # for steps whose work is discarded
PAUSE_SECONDS = 0.1


def _always() -> bool:
    return True


@contextmanager
def claim(
    plan: str, run_id: str, step: str, *, alone: bool = False, may_end: Callable[[], bool] = _always
) -> Iterator[None]:
    """Hold the claim on a step of a run while the block runs.

    Args:
        plan: Name of the plan.
        run_id: The run.
        step: The step.
        alone: No other step of the plan may be in flight: those that do not end by themselves are killed.
        may_end: Asked before a process is killed; a run that lost the lease may not.

    Raises:
        Unreachable: When another attempt neither ended nor could be killed; a retry may help.
    """
    folder = first_root() / plan / ".claims"
    with (
        _lock(folder / f"{slug(run_id)}.{slug(step)}", fcntl.LOCK_EX, f"step {step}", WAIT_SECONDS, may_end),
        _plan_lock(plan, alone, may_end),
    ):
        yield


@contextmanager
def opening(plan: str, run_id: str, step: str) -> Iterator[None]:
    """Hold the claim on a step that opens a run; it may run beside the steps of other runs."""
    path = first_root() / plan / ".claims" / f"{slug(run_id)}.{slug(step)}"
    with _lock(path, fcntl.LOCK_EX, f"step {step}", WAIT_SECONDS, _always):
        yield


def wait_for_others(plan: str, may_end: Callable[[], bool] = _always) -> None:
    """Return once no step of the plan is in flight on this host; one that does not end by itself is killed.

    Raises:
        Unreachable: When one still is and could not be killed.
    """
    with _plan_lock(plan, True, may_end):
        return


@contextmanager
def _plan_lock(plan: str, alone: bool, may_end: Callable[[], bool]) -> Iterator[None]:
    mode, seconds = (fcntl.LOCK_EX, PATIENCE_SECONDS) if alone else (fcntl.LOCK_SH, WAIT_SECONDS)
    with _lock(first_root() / plan / ".claims" / "plan", mode, f"plan {plan}", seconds, may_end):
        yield


@contextmanager
def _lock(path: Path, mode: int, what: str, seconds: float, may_end: Callable[[], bool]) -> Iterator[None]:
    descriptor = _open(path)
    try:
        _acquire(descriptor, mode, what, seconds, may_end)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open the file of a claim. On a volume that cannot be written, one that exists will do.

    Raises:
        StepFailed: When it can neither be made nor opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        second = evidence_root()
        if second == first_root():
            with disk_errors(path):
                raise error from None
        place = second / path.relative_to(first_root())
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _acquire(descriptor: int, mode: int, what: str, seconds: float, may_end: Callable[[], bool]) -> None:
    begun = time.monotonic()
    ended = False
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - begun
        # A waiter in shared mode waits for a step of the way back, which must not be killed.
        if waited > seconds and mode == fcntl.LOCK_EX and may_end():
            ended |= end_holders(descriptor, what)
        if waited > seconds + (PATIENCE_SECONDS if ended else 0):
            raise Unreachable(
                "another attempt is still running",
                where=what,
                expected=f"its end within {seconds:g} s",
                do="End that process (its pid is in the newest step.begin of the evidence), then clear this task.",
            )
        time.sleep(PAUSE_SECONDS)
