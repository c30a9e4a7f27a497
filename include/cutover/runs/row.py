"""The facts of a step, as the rows of the runbook hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from include.cutover.plan.model import Plan
from include.cutover.runs.terms import FORWARD, GO_LIVE


class Point(Enum):
    """A point that the run passes only after the steps required for it have passed."""

    STOP = "the services stop"
    GO_LIVE = "going live is decided"
    STAY_LIVE = "the run counts as live"
    REHEARSAL = "a rehearsal is green"


class Runs(Enum):
    """A DAG, or a command, that runs steps."""

    CUTOVER = "cutover"
    REHEARSAL = "rehearsal"
    ROLLBACK = "rollback"
    AFTERCARE = "aftercare"
    RETENTION = "retention"
    BREAK_GLASS = "break-glass rollback"


class Place(Enum):
    """A place on disk that a step writes to."""

    CONFIGURATION = "the configuration that is kept"
    BACKUPS = "the backups"


class Limit(Enum):
    """A time limit of the plan that bounds a step."""

    STOP = "stopping the services"
    START = "starting the services"
    HEALTH = "waiting until the application is healthy"


class Span(Enum):
    """A time that a cutover is expected to take."""

    DOWN = "services down"
    BACK = "going back"


def _always(_: Plan) -> bool:
    return True


@dataclass(frozen=True)
class Row:
    """The facts of one step.

    Attributes:
        name: As recorded in the evidence. A mapped row stands for all of ``copy.<table>[.<stream>]``.
        phase: Its part of the report.
        runs: DAGs and commands that run it.
        asks: It is a gate: a question to people, answered in the evidence and not run as a step.
        mapped: One task for each table of the plan, or for each stream of a table.
        anywhere: Any worker may run it: it needs the evidence, the places of the backups and the target, and neither the
            application's files (SQLite file, configuration, logs) nor its services. Else it runs beside the application.
        moves_data: It reads or writes all rows, so it may take the whole window.
        writes: Places that must have room before it begins, for what it and the steps after it write there.
        planned: Reports whether a plan has the step at all.
        required: The point that needs its pass; all later points need it too.
        required_if: Reports whether a plan requires it there.
        replaced: A rehearsal runs another body in its place.
        fills_target: It writes what the proofs read.
        after_filling: It proves what is in the target: its pass counts only when it began after all that fill it.
        after_steps: Its pass counts only when it began after these.
        rehearsed_after: The same in a rehearsal, in addition.
        touches: It changes something of the application; once it began the run needs a way back.
        way: The way it belongs to: go-live, abandon, release, rollback, or a rehearsal's way back. Its steps run in turn.
        completes: The way is complete only when it passed.
        decides: The point that it decides.
        ends_part: The part of the run that ends with its pass, in words for people.
        unmeasured: The time that it takes part in and that a rehearsal cannot measure.
        limits: The plan's limits for that time.
        writes_report: It writes the report or the incident document, and so has no end in it.
        gate, opens, closes, way_back, on_full_disk, course, touched, in_time: See ``Terms``.
        after: Steps that must have passed before; a point stands for all steps required for it.
    """

    name: str
    phase: str = ""
    runs: frozenset[Runs] = frozenset({Runs.CUTOVER})
    asks: bool = False
    mapped: bool = False
    anywhere: bool = False
    moves_data: bool = False
    writes: tuple[Place, ...] = ()
    planned: Callable[[Plan], bool] = _always
    required: Point | None = None
    required_if: Callable[[Plan], bool] = _always
    replaced: bool = False
    fills_target: bool = False
    after_filling: bool = False
    after_steps: tuple[str, ...] = ()
    rehearsed_after: tuple[str, ...] = ()
    touches: bool = False
    way: str = ""
    completes: bool = False
    decides: Point | None = None
    ends_part: str = ""
    unmeasured: Span | None = None
    limits: tuple[Limit, ...] = ()
    writes_report: bool = False
    gate: str | None = None
    opens: bool = False
    closes: bool = False
    way_back: bool = False
    on_full_disk: bool = False
    course: tuple[str, ...] = (FORWARD, GO_LIVE)
    touched: bool = False
    in_time: bool = False
    after: tuple[str | Point, ...] = ()
