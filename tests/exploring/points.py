"""Where a step can be killed or stopped: around every call that changes a file, and every round trip with PostgreSQL."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.killing import CHANGING


@dataclass(frozen=True)
class Fault:
    """The fate of an attempt.

    Attributes:
        at: How many points it passes unharmed; None is the very end, when all is done and nobody knows it yet.
        signal: SIGKILL, or SIGSTOP: then it goes on when somebody says so.
        milliseconds: Killed after so much of a processor's time instead, wherever that is: also inside SQLite or libpq. No
            two times are quite the same, so this is not played again exactly.
        reboot: The whole host goes down at that point; at the end, when the attempt comes to its end before.
    """

    at: int | None
    signal: signal.Signals
    milliseconds: float = 0
    reboot: bool = False

    def __str__(self) -> str:
        if self.milliseconds:
            return f"killed after {self.milliseconds:.1f} ms"
        where = "the end" if self.at is None else f"point {self.at}"
        if self.reboot:
            return f"killed by a reboot at {where}"
        return f"{'killed' if self.signal is signal.SIGKILL else 'stopped'} at {where}"


def arm(fault: Fault | None) -> Callable[[], object]:
    """Let the fault happen in this process.

    Returns:
        To be called at the end.
    """
    if fault is None:
        return lambda: None
    if fault.milliseconds:
        signal.setitimer(signal.ITIMER_PROF, fault.milliseconds / 1000)  # nobody handles SIGPROF: it ends the process
        return lambda: signal.setitimer(signal.ITIMER_PROF, 0)
    points = itertools.count()

    def point() -> None:
        if next(points) == fault.at:
            os.kill(os.getpid(), fault.signal)

    def dangerous(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return original(*arguments, **keywords)
            point()
            result = original(*arguments, **keywords)
            point()
            return result

        return call

    if fault.at is not None:
        for name in CHANGING:
            setattr(os, name, dangerous(name, getattr(os, name)))
        psycopg.Connection.wait = dangerous("wait", psycopg.Connection.wait)  # type: ignore[method-assign]

    def end() -> None:
        if fault.at is None or fault.reboot:
            os.kill(os.getpid(), fault.signal)

    return end
