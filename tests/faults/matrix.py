"""The cells: a fault, the task in which it happens, and the end states that count."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.faults.judge import State
from tests.faults.trial import Result, Trial

Act = Callable[[Trial], Iterable[Result] | None]

LIVE, UNTOUCHED, RELEASED, RESTORED = State.LIVE, State.UNTOUCHED, State.RELEASED, State.RESTORED


@dataclass(frozen=True)
class Cell:
    """One entry of the matrix.

    Attributes:
        row: Number of the fault's row.
        name: Unique; what ONLY matches and a file name can hold.
        fault: In words.
        task: Where, in words.
        act: Drives the run and breaks it. What it returns are the results of single tasks, where a cell breaks many.
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


@cell(1, "kill-copy-middle", "kill -9 of the task's process", "copy.ping_results, in its middle", LIVE)
def _(trial: Trial) -> None:
    rule = trial.rule("copy.ping_results.0", "middle", "kill")
    run_id = trial.cutover()
    trial.held(rule)
    trial.fault()
    trial.wait(run_id)


@cell(3, "target-sigquit-copy", "immediate shutdown of PostgreSQL, then a start", "copy, in its middle", LIVE, RESTORED)
def _(trial: Trial) -> None:
    rule = trial.hold("copy.ping_results.0", "middle")
    run_id = trial.cutover()
    trial.held(rule)
    trial.site.target.stop(signal.SIGQUIT)
    trial.fault()
    trial.release(rule)
    trial.site._start_target()
    trial.wait(run_id)
