"""The heart-beat of the test stack, as quick as this machine allows at the moment.

A heart-beat comes late by what a process waits for a processor and for its answer. So the harness measures how long a
process takes to start and to import what a task imports, on every processor at once, when the site starts and before each
cell, and lets the stack wait for ``STARTS`` such starts before it declares a task dead: a machine under load makes cells
slower, not red.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from include.cutover.places import ROOT

FLOOR, CEILING = 8, 60
"""Seconds without a heart-beat after which the scheduler declares a task dead: at least, and at most."""

STARTS = 6
"""Starts of a process that the scheduler waits for; a quiet machine with two cores starts one in 1.1 s."""

_SCHEDULER_SHARE = 5 / 8  # of a task's time, after which a scheduler is dead
_IMPORTS = "import httpx, psycopg, include.cutover.steps.running"


@dataclass(frozen=True)
class Pulse:
    """The heart-beat that a stack is started with.

    Attributes:
        task: Seconds without a heart-beat after which a task is declared dead.
    """

    task: int = FLOOR

    @property
    def scheduler(self) -> int:
        """Seconds without a heart-beat after which a scheduler is declared dead."""
        return math.ceil(self.task * _SCHEDULER_SHARE)

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of Airflow; much quicker than what a window needs (see ``airflow.env``), so that a cell takes seconds.

        But the scheduler rests longer when it is idle: the loop of a window takes a third of a processor.
        """
        return {
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(self.scheduler),
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(self.task),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }

    def patience(self, seconds: float) -> int:
        """Return a limit that was chosen on a quiet machine, as long as it must be on this one."""
        return math.ceil(seconds * self.task / FLOOR)

    def follows(self, needed: Pulse) -> bool:
        """Report whether the stack may keep this heart-beat: slow enough, and not twice as slow as it must be."""
        return needed.task <= self.task < 2 * needed.task or self.task == needed.task


def of(seconds: float) -> Pulse:
    """Return the heart-beat for a machine on which a process takes so long to start."""
    return Pulse(min(CEILING, max(FLOOR, math.ceil(STARTS * seconds))))


def measured() -> Pulse:
    """Return the heart-beat that this machine allows now; takes as long as one start of a process."""
    began = time.monotonic()
    starting = [
        subprocess.Popen([sys.executable, "-c", _IMPORTS], cwd=ROOT, stdin=subprocess.DEVNULL)
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    for process in starting:
        if process.wait() != 0:
            raise RuntimeError(f"a process that imports what a task imports ended with status {process.returncode}")
    return of(time.monotonic() - began)
