"""The cells: a fault, the task in which it happens, and the end states that count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.faults.judge import State
from tests.faults.trial import Result, Trial

Act = Callable[[Trial], Iterable[Result] | None]

LIVE, UNTOUCHED, RELEASED, RESTORED = State.LIVE, State.UNTOUCHED, State.RELEASED, State.RESTORED
ANY = (LIVE, UNTOUCHED, RELEASED, RESTORED)

FAULTS = {
    1: "kill -9 of the task's process",
    2: "kill -9 of the scheduler, of the API server, of a worker",
    3: "kill -9, immediate shutdown and restart of the PostgreSQL target",
    4: "connection cut, slow or hung",
    5: "disk full: target, backup, evidence, log",
    6: "a rogue process writes to SQLite, holds a lock, keeps it open",
    7: "backup truncated, or one bit of it flipped, after it was taken",
    8: "triggered twice; cutover and rollback at once; two schedulers",
    9: "zombie: a task declared dead goes on writing while its retry runs",
    10: "a person clears or re-runs a task, or the whole run",
    11: "Slack and SMTP down, slow, refusing",
    12: "nobody answers the go/no-go; somebody who is not entitled answers",
    13: "services do not stop, do not start; health is red, hangs, lies",
    14: "rollback itself is killed, or its restore fails",
    15: "PostgreSQL is gone when rollback starts",
    16: "clock jumps; different time zones",
    17: "plan, SQL or code change while a run is in flight",
    18: "planted corruption in the target",
    19: "DAG paused; run marked failed or success; task marked success; run deleted",
    20: "the plan file is broken; a DAG file fails to parse",
    21: "the host reboots, and the services start by themselves",
    22: "somebody changes the target between the copy and the first log-in of the application",
    23: "the source has another name: hard link, mount of the file; its log lies there",
    24: "a pooler in front of the target; a synchronous standby that is missing",
    25: "the evidence's volume becomes read-only; both backups are gone",
    26: "foreign text in names, keys and reasons",
    27: "the machine is so slow that heart-beats and health checks come late",
    28: "the application wrote on SQLite after the restore, and somebody rolls back again",
}


@dataclass(frozen=True)
class Cell:
    """One entry of the matrix.

    Attributes:
        row: Number of the fault's row.
        name: Unique; what ONLY matches and a file name can hold.
        fault: In words.
        task: Where, in words.
        act: Drives the run and breaks it. It returns the results of single tasks, where a cell breaks many.
        expects: End states that count as survived.
    """

    row: int
    name: str
    fault: str
    task: str
    act: Act
    expects: frozenset[State]


CELLS: list[Cell] = []


def cell(row: int, name: str, fault: str, task: str, *expects: State) -> Callable[[Act], Act]:
    """Enter a function into the matrix."""

    def enter(act: Act) -> Act:
        CELLS.append(Cell(row, name, fault, task, act, frozenset(expects)))
        return act

    return enter
