"""The runbook as one table: a row for each step, in their order, with everything that other modules need to know of it.

To add a step, write its body, its row here and its line in the DAG file. Phase in the report, queue, time limit, disk needs,
terms, required steps and ways back are read from the row. A step without a row fails when its DAG is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from include.cutover.plan.model import Plan
from include.cutover.runs.row import Limit, Place, Point, Row, Runs, Span
from include.cutover.runs.terms import ABANDON, FORWARD, GO_LIVE, LIVE, RELEASE, ROLLBACK, SWITCHING, Terms

# Names of steps whose figures or result other modules read.
OPEN_RUN = "open_run"
CLONE_SOURCE = "clone_source"
CHECK_SOURCE = "check_source"
ASSESS_SOURCE = "assess_source"
APPLY_DDL = "apply_ddl"
GO_NO_GO = "go_no_go"
STOP_SERVICES = "stop_services"
FENCE_SOURCE = "fence_source"
TAKE_BACKUP = "take_backup"
COPY = "copy"
BUILD_KEYS = "build_keys_and_indexes"
SNAPSHOT_EXTRAS = "snapshot_extras"
CHECK_TABLES = "check_tables"
MARK_TARGET = "mark_target"
SWITCH_CONFIGURATION = "switch_configuration"
KEEP_TARGET = "rollback.keep_target"
RESTORE_SOURCE = "rollback.restore_source"
OPEN_ROLLBACK, CLOSE_ROLLBACK = "open_rollback", "close_rollback"
GIVE_UP = "give_up"
FIRST_BACKUP = "first_backup"

REHEARSED_BACK = "way_back"
"""The way back of a rehearsal; it is no course of a run."""


_REQUIRED = {
    Point.STOP: {Point.STOP},
    Point.GO_LIVE: {Point.STOP, Point.GO_LIVE},
    Point.STAY_LIVE: {Point.STOP, Point.GO_LIVE, Point.STAY_LIVE},
    Point.REHEARSAL: set(Point),
}


_CUTOVER, _REHEARSAL = frozenset({Runs.CUTOVER}), frozenset({Runs.REHEARSAL})
_BOTH = _CUTOVER | _REHEARSAL
_MANUAL = frozenset({Runs.ROLLBACK, Runs.BREAK_GLASS})
_ANY_ROLLBACK = _CUTOVER | _MANUAL
_AFTERCARE, _RETENTION = frozenset({Runs.AFTERCARE}), frozenset({Runs.RETENTION})
_ANY_COURSE: tuple[str, ...] = ()


def _part(phase: str, *rows: Row) -> Iterator[Row]:
    return (replace(row, phase=phase) for row in rows)


def _wants_extras(plan: Plan) -> bool:
    return plan.extras.wanted


def _requires_extras(plan: Plan) -> bool:
    return plan.extras.required


def _grants_access(plan: Plan) -> bool:
    return plan.access is not None


def _dumps_target(plan: Plan) -> bool:
    return plan.aftercare.first_backup.wanted


ROWS: tuple[Row, ...] = (
    *_part(
        "Prepare",
        Row(OPEN_RUN, required=Point.STOP, opens=True),
        Row("open_rehearsal", runs=_REHEARSAL, required=Point.REHEARSAL, opens=True),
        Row("create_database", runs=_REHEARSAL, required=Point.REHEARSAL),
        Row(CLONE_SOURCE, runs=_REHEARSAL, required=Point.REHEARSAL, moves_data=True),
        Row("announce_start", runs=_BOTH, anywhere=True, required=Point.REHEARSAL),
        Row("check_target", runs=_BOTH, replaced=True, required=Point.STOP),
        Row(CHECK_SOURCE, runs=_BOTH, moves_data=True, required=Point.STOP, rehearsed_after=(CLONE_SOURCE,)),
        Row(ASSESS_SOURCE, runs=_BOTH, moves_data=True, required=Point.STOP, rehearsed_after=(CLONE_SOURCE,)),
        Row("check_places", runs=_BOTH, replaced=True, required=Point.STOP),
        Row(APPLY_DDL, runs=_BOTH, anywhere=True, required=Point.STOP, rehearsed_after=("create_database",)),
        Row(
            "apply_migrations",
            runs=_BOTH,
            anywhere=True,
            required=Point.STOP,
            ends_part="the checks before the services stop",
        ),
        Row(GO_NO_GO, asks=True, required=Point.GO_LIVE, course=(FORWARD,)),
        Row("wait_for_window", required=Point.STOP, gate=GO_NO_GO),
    ),
    *_part(
        "Stop and back up",
        Row(
            STOP_SERVICES,
            writes=(Place.CONFIGURATION, Place.BACKUPS),
            required=Point.GO_LIVE,
            touches=True,
            unmeasured=Span.DOWN,
            limits=(Limit.STOP,),
            gate=GO_NO_GO,
            after=(Point.STOP,),
            in_time=True,
        ),
        Row(
            FENCE_SOURCE,
            runs=_BOTH,
            required=Point.GO_LIVE,
            rehearsed_after=(CLONE_SOURCE,),
            touches=True,
            after=(STOP_SERVICES,),
            ends_part="stopping the services",
        ),
        Row(
            TAKE_BACKUP,
            runs=_BOTH,
            replaced=True,
            moves_data=True,
            writes=(Place.CONFIGURATION, Place.BACKUPS),
            required=Point.GO_LIVE,
            rehearsed_after=(FENCE_SOURCE,),
            touches=True,
            after=(FENCE_SOURCE,),
            ends_part="the backup",
        ),
    ),
    *_part(
        "Copy",
        Row(
            COPY,
            runs=_BOTH,
            mapped=True,
            anywhere=True,  # it reads the backup
            moves_data=True,
            required=Point.GO_LIVE,
            fills_target=True,
            rehearsed_after=(TAKE_BACKUP, "apply_migrations"),
            in_time=True,
            ends_part="the copy",
        ),
        Row("restore_test", runs=_BOTH, anywhere=True, moves_data=True, required=Point.GO_LIVE),  # reads the backup, too
        Row(
            SNAPSHOT_EXTRAS,
            runs=_BOTH,
            moves_data=True,
            planned=_wants_extras,
            required=Point.GO_LIVE,
            required_if=_requires_extras,
        ),
    ),
    *_part(
        "Finish the target",
        Row(BUILD_KEYS, runs=_BOTH, anywhere=True, moves_data=True, required=Point.GO_LIVE, fills_target=True),
        Row("load_reference_data", runs=_BOTH, anywhere=True, required=Point.GO_LIVE, fills_target=True),
        Row("store_quarantine", runs=_BOTH, anywhere=True, required=Point.GO_LIVE, fills_target=True),
        Row("declare_foreign_keys", runs=_BOTH, anywhere=True, required=Point.GO_LIVE, fills_target=True),
        Row("set_sequences", runs=_BOTH, anywhere=True, required=Point.GO_LIVE, fills_target=True),
        Row(
            "analyze_tables",
            runs=_BOTH,
            anywhere=True,
            moves_data=True,
            required=Point.GO_LIVE,
            fills_target=True,
            ends_part="keys and indexes",
        ),
        Row("grant_access", runs=_BOTH, planned=_grants_access, required=Point.GO_LIVE, required_if=_grants_access),
    ),
    *_part(
        "Verify",
        Row(CHECK_TABLES, runs=_BOTH, anywhere=True, moves_data=True, required=Point.GO_LIVE, after_filling=True),
        Row(
            "validate_foreign_keys",
            runs=_BOTH,
            anywhere=True,
            moves_data=True,
            required=Point.GO_LIVE,
            ends_part="the proof",
        ),
        Row("smoke_test_database", runs=_BOTH, anywhere=True, required=Point.GO_LIVE, after_filling=True),
        Row("decide", decides=Point.GO_LIVE, way_back=True, course=_ANY_COURSE),
        Row(
            MARK_TARGET,  # a cutover does this when it switches the configuration
            runs=_REHEARSAL,
            required=Point.REHEARSAL,
            after_filling=True,
            rehearsed_after=(TAKE_BACKUP,),
        ),
    ),
    *_part(
        "Go live",
        Row("approve", asks=True, required=Point.STAY_LIVE, course=(GO_LIVE,)),
        Row(
            SWITCH_CONFIGURATION,
            way=GO_LIVE,
            writes=(Place.CONFIGURATION,),
            required=Point.STAY_LIVE,
            unmeasured=Span.DOWN,
            gate="approve",
            course=(GO_LIVE, SWITCHING),
            in_time=True,
        ),
        Row(
            "start_services",
            way=GO_LIVE,
            required=Point.STAY_LIVE,
            after_steps=(SWITCH_CONFIGURATION,),
            unmeasured=Span.DOWN,
            limits=(Limit.START, Limit.HEALTH),
            gate="approve",
            course=(GO_LIVE, SWITCHING),
            in_time=True,
            ends_part="going live",
        ),
        Row(
            "smoke_test_application",
            way=GO_LIVE,
            required=Point.STAY_LIVE,
            after_steps=("start_services",),
            gate="approve",
            course=(GO_LIVE, SWITCHING),
            ends_part="the smoke tests",
        ),
        Row("decide_live", decides=Point.STAY_LIVE, way_back=True, course=_ANY_COURSE),
        Row("announce_completion", runs=_BOTH, anywhere=True, way_back=True, course=(LIVE,)),
    ),
    *_part(
        "Release",
        Row(f"{RELEASE}.lift_fence", way=RELEASE, completes=True, way_back=True, course=(RELEASE,), touched=True),
        Row(f"{RELEASE}.start_services", way=RELEASE, completes=True, way_back=True, course=(RELEASE,)),
        Row(f"{RELEASE}.check_health", way=RELEASE, completes=True, way_back=True, course=(RELEASE,)),
        Row(f"{RELEASE}.call_off", way=RELEASE, way_back=True, course=(RELEASE,)),
    ),
    *_part(
        "Roll back",
        Row(OPEN_ROLLBACK, runs=_MANUAL, opens=True, on_full_disk=True),
        *(
            replace(row, runs=_ANY_ROLLBACK, way=ROLLBACK, way_back=True, course=row.course if row.touched else (ROLLBACK,))
            for row in (
                # A rollback also begins where a branch died before it could decide.
                Row(
                    f"{ROLLBACK}.stop_services",
                    completes=True,
                    unmeasured=Span.BACK,
                    limits=(Limit.STOP,),
                    course=(FORWARD, GO_LIVE, SWITCHING, ROLLBACK),
                    touched=True,
                ),
                Row(KEEP_TARGET, completes=True, moves_data=True),
                Row(RESTORE_SOURCE, completes=True, moves_data=True),
                Row(f"{ROLLBACK}.revert_configuration", completes=True, unmeasured=Span.BACK),
                Row(f"{ROLLBACK}.start_services", completes=True, unmeasured=Span.BACK, limits=(Limit.START,)),
                Row(f"{ROLLBACK}.check_health", completes=True, unmeasured=Span.BACK, limits=(Limit.HEALTH,)),
                Row(f"{ROLLBACK}.write_incident", writes_report=True),
                Row(f"{ROLLBACK}.announce_rollback"),
            )
        ),
        Row(GIVE_UP, runs=frozenset({Runs.BREAK_GLASS}), way_back=True, course=(ROLLBACK,)),
    ),
    *_part(
        "Way back",
        *(
            replace(row, runs=_REHEARSAL, way=REHEARSED_BACK, moves_data=True, required=Point.REHEARSAL)
            for row in (
                Row(f"{REHEARSED_BACK}.keep_target", rehearsed_after=(MARK_TARGET,)),
                Row(f"{REHEARSED_BACK}.restore_source", rehearsed_after=(TAKE_BACKUP,)),
                Row(f"{REHEARSED_BACK}.check_restored", rehearsed_after=(f"{REHEARSED_BACK}.restore_source",)),
            )
        ),
    ),
    *_part(
        "Close",
        Row("abandon", way=ABANDON, way_back=True, course=(ABANDON,)),
        Row("close_run", closes=True, writes_report=True),
        Row(CLOSE_ROLLBACK, runs=_MANUAL, closes=True, writes_report=True),
        Row("close_rehearsal", runs=_REHEARSAL, closes=True, writes_report=True),
    ),
    *_part(
        "Aftercare",
        Row("open_aftercare", runs=_AFTERCARE),
        Row("look", runs=_AFTERCARE),
        Row(FIRST_BACKUP, runs=_AFTERCARE, planned=_dumps_target),
        Row("close_aftercare", runs=_AFTERCARE),
    ),
    *_part(
        "Retention",
        *(Row(name, runs=_RETENTION) for name in ("archive_backups", "remove_backups", "drop_kept_targets")),
    ),
)
"""All steps in their order."""

OTHER = "Other"
"""The phase of a step without a row, as an earlier version of the pipeline may have recorded."""


def find(step: str) -> Row | None:
    """Return the row of a step by its name in the evidence; None where it has none."""
    by_name = {row.name: row for row in ROWS}
    mapped = by_name.get(step.partition(".")[0])
    return by_name.get(step) or (mapped if mapped is not None and mapped.mapped else None)


def row_of(step: str) -> Row:
    """Return the row of a step.

    Raises:
        LookupError: When it has none.
    """
    row = find(step)
    if row is None:
        raise LookupError(f"the step {step} has no row in include/cutover/runs/runbook.py; add one")
    return row


def phase_of(step: str) -> str:
    """Return the part of the report that a step belongs to."""
    row = find(step)
    return OTHER if row is None else row.phase


def is_copy(step: str) -> bool:
    """Report whether a step copies a table, or a part of one."""
    row = find(step)
    return row is not None and row.mapped and step != row.name


def copies(plan: Plan, table: str | None = None) -> list[str]:
    """Return the names of the copies of a plan, or of one of its tables; one for each stream."""
    found = []
    for name, settings in plan.tables.items():
        if table in (None, name):
            step = f"{COPY}.{name}"
            found += [step] if settings.streams == 1 else [stream_of(step, number) for number in range(settings.streams)]
    return found


def stream_of(step: str, number: int) -> str:
    """Return the name of one stream of a copy; they are counted from 0."""
    return f"{step}.{number}"


def names_of(row: Row, plan: Plan) -> list[str]:
    """Return the names that a row stands for in a plan."""
    return copies(plan) if row.mapped else [row.name]


def _required_rows(plan: Plan, point: Point, *, asks: bool = False) -> Iterator[Row]:
    for row in ROWS:
        runs_there = point is not Point.REHEARSAL or Runs.REHEARSAL in row.runs
        if row.asks == asks and runs_there and row.required in _REQUIRED[point] and row.required_if(plan):
            yield row


def required(plan: Plan, point: Point) -> list[str]:
    """Return the steps whose pass a point needs, in their order."""
    return [name for row in _required_rows(plan, point) for name in names_of(row, plan)]


def required_gates(plan: Plan, point: Point) -> list[str]:
    """Return the gates whose go a point needs."""
    return [row.name for row in _required_rows(plan, point, asks=True)]


def later(plan: Plan, point: Point) -> dict[str, Sequence[str]]:
    """Return, for the steps that a point requires, those that must have ended before each of them began."""
    filling = [name for row in ROWS if row.fills_target for name in names_of(row, plan)]
    found: dict[str, Sequence[str]] = {}
    for row in _required_rows(plan, point):
        before = [*row.after_steps, *(row.rehearsed_after if point is Point.REHEARSAL else ())]
        before += filling if row.after_filling else []
        if before:
            found |= dict.fromkeys(names_of(row, plan), before)
    return found


def way(name: str) -> list[Row]:
    """Return the steps of a way in their order: go-live, abandon, release, rollback, or a rehearsal's way back."""
    return [row for row in ROWS if row.way == name]


def first_of(name: str) -> str:
    """Return the first step of a way."""
    return way(name)[0].name


def completing(name: str) -> list[str]:
    """Return the steps of a way that must have passed in turn for it to be complete."""
    return [row.name for row in way(name) if row.completes]


def touching() -> list[str]:
    """Return the steps that change something of the application."""
    return [row.name for row in ROWS if row.touches]


def behind(gate: str) -> str:
    """Return the first step behind a gate that the clock holds back: what a go lets through."""
    return next(row.name for row in ROWS if row.gate == gate and row.in_time)


def unmeasured(span: Span) -> list[Row]:
    """Return the steps whose time a rehearsal cannot measure."""
    return [row for row in ROWS if row.unmeasured is span]


def terms_of(step: str, plan: Plan, *, rehearsal: bool = False) -> Terms:
    """Return when a step may run.

    A rehearsal has neither gates nor courses: it judges the order of its steps at its end, see ``later``.
    """
    row = row_of(step)
    if rehearsal:
        return Terms(opens=row.opens, closes=row.closes, in_time=row.in_time)
    earlier = [item.name for item in way(row.way)] if row.way else []
    after = [names for item in row.after for names in (required(plan, item) if isinstance(item, Point) else [item])]
    return Terms(
        gate=row.gate,
        opens=row.opens,
        closes=row.closes,
        way_back=row.way_back,
        on_full_disk=row.on_full_disk,
        course=row.course,
        after=tuple(after),
        in_turn=tuple(earlier[: earlier.index(row.name)] if row.name in earlier else ()),
        touched=row.touched,
        in_time=row.in_time,
    )
