"""The state of a plan, in words: its newest run, the step it has reached, where the application is, and what to do next.

For a person who finds everything stopped, for example after a power cut. It reads only the evidence, so it works with
Airflow and PostgreSQL down. The evidence does not record what happened outside a run: after a restart of the host, services
that a run had stopped may run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from include.cutover.errors import CannotCheck
from include.cutover.evidence import lease
from include.cutover.evidence.record import Event, Evidence, evidence_root, runs_below, sealing
from include.cutover.report.story import Story
from include.cutover.runs import incident, runbook
from include.cutover.runs.terms import ABANDON, RELEASE, ROLLBACK, SWITCHING
from include.cutover.runs.verdict import course, has_passed, has_touched, passed_in_turn

BREAK_GLASS = "break_glass"
"""The holder of a lease that the command ``rollback`` took begins with it."""

_ENDED_ON = {"live": "PostgreSQL", "rolled_back": "SQLite", "released": "SQLite", "abandoned": "SQLite"}


@dataclass(frozen=True)
class PlanState:
    """The state of a plan.

    Attributes:
        plan: Its name.
        run: Its newest run in words.
        at: The step that the run has reached, in words.
        application: Where the application is, in words.
        do: The next things to do, the first one first.
        in_flight: True while a run is open, and when its way back is not complete.
        run_id: Id of the run; empty without a run.
    """

    plan: str
    run: str
    at: str
    application: str
    do: tuple[str, ...]
    in_flight: bool = False
    run_id: str = ""


def state_of_plan(plan: str) -> PlanState:
    """Return the state of a plan from the evidence of its newest run. Damaged evidence is reported, and raises nothing."""
    try:
        found = [run for run in runs_below(evidence_root() / plan) if run.last("run.opened") is not None]
    except CannotCheck as error:
        return _damaged(plan, error)
    if not found:
        return PlanState(
            plan,
            "none yet",
            "nothing has begun",
            "on SQLite: no run has changed it",
            (f"Trigger cutover_{plan} as the lead.",),
        )
    # An open run comes first: a later one may have been refused because of it.
    run = next((item for item in reversed(found) if item.sealed is None), found[-1])
    return _of_run(plan, run)


def _damaged(plan: str, error: CannotCheck) -> PlanState:
    return PlanState(
        plan,
        f"unknown: {error.message}",
        error.where or str(evidence_root() / plan),
        "unknown",
        ("Run 'python -m include.cutover evidence check' on the folder of each run.", "See docs/rollback.md, 'By hand'."),
        in_flight=True,
    )


def _of_run(plan: str, run: Evidence) -> PlanState:
    events, story = run.events(), Story(run)
    sealed, opened = sealing(events), run.last("run.opened") or {}
    run_id = str(opened["run_id"])
    outcome = str(sealed["outcome"]) if sealed is not None else "open"
    if sealed is None:
        words = f"in flight since {opened['time']}: {story.state.headline}"
    else:
        words = f"ended at {sealed['time']}: {story.state.headline}"
    return PlanState(
        plan,
        f"{run_id}, {words}",
        _at(story),
        _application(events, outcome),
        _do_ended(plan, run, outcome) if sealed is not None else _do_open(plan, run, events, story),
        in_flight=outcome in ("open", "failed"),
        run_id=run_id,
    )


def _at(story: Story) -> str:
    step = max(story.steps.values(), key=lambda item: (item.last.begin, item.last.end), default=None)
    if step is None:
        return "before its first step"
    if step.outcome in ("running", "unfinished"):
        return f"{step.name}: it began at {step.last.begin:%H:%M:%S} UTC, and no end is recorded"
    summary = step.last.summary.splitlines()[0] if step.last.summary else ""
    return f"{step.name}: {step.outcome}" + (f", {summary}" if summary else "")


def _application(events: Sequence[Event], outcome: str) -> str:
    if outcome in _ENDED_ON:
        return f"on {_ENDED_ON[outcome]}"
    moves = [event for event in events if event["event"] in ("services.stopped", "services.started")]
    last = moves[-1] if moves else None
    if last is None:
        return "on SQLite: the run has stopped nothing" if not has_touched(events) else "being stopped by the run"
    if last["event"] == "services.started":
        return "on PostgreSQL" if last.get("on") == "target" else "on SQLite"
    return f"stopped by the run, and perhaps up again since a restart of its host; {_while_down(events)}"


def _while_down(events: Sequence[Event]) -> str:
    if course(events) == ROLLBACK:
        steps = runbook.completing(ROLLBACK)
        if passed_in_turn(events, steps[: steps.index(runbook.RESTORE_SOURCE) + 1]):
            return "SQLite is restored, and the services are started next"
        return "it goes back to SQLite"
    if course(events) == SWITCHING and has_passed(events, runbook.SWITCH_CONFIGURATION):
        return "its configuration names PostgreSQL"
    return "its data is in SQLite" + (", which is fenced" if _fenced(events) else "")


def _fenced(events: Sequence[Event]) -> bool:
    return has_passed(events, runbook.FENCE_SOURCE) and course(events) != RELEASE


def _command(plan: str, folder: Path) -> str:
    return f'python -m include.cutover rollback --plan {plan} --evidence {folder} --reason "why"'


def _do_open(plan: str, run: Evidence, events: Sequence[Event], story: Story) -> tuple[str, ...]:
    held = lease.read(plan)
    holder = held.holder if held is not None else ""
    without = f"If Airflow stays down: {_command(plan, run.folder)}"
    if holder.startswith(f"{BREAK_GLASS}/"):
        return (f"The command 'rollback' was interrupted. Nothing continues it: run it again: {_command(plan, run.folder)}",)
    where = (
        f"Airflow continues {holder or 'the run'} by itself, and retries an interrupted step after at most 30 s: watch it."
    )
    way = course(events)
    if way == ROLLBACK:
        red = f"When a task is red: clear it with all after it, or trigger rollback_{plan} again."
        return (where, red, without)
    if way in (ABANDON, RELEASE):
        return (where, "When a task is red: clear it with all after it.", without)
    asked, answered = story.run.newest("gate.asked"), story.run.newest("gate")
    waits = bool(asked) and (not answered or answered["seq"] < asked["seq"])
    first = f"Airflow asks {asked.get('gate')}: the lead or a deputy answers it there." if waits else where
    if not has_touched(events):
        return (first, "To end the run, answer its gate with No-go. Nothing was stopped.")
    return (first, f"To go back: trigger rollback_{plan}.", without)


def _do_ended(plan: str, run: Evidence, outcome: str) -> tuple[str, ...]:
    if outcome == "live":
        return (
            f"Follow aftercare_{plan}.",
            f"To go back: trigger rollback_{plan}. Without Airflow: {_command(plan, run.folder)}",
        )
    if outcome == "failed":
        return (
            "The way back is not complete: act now.",
            f"Trigger rollback_{plan} again. Without Airflow: {_command(plan, run.folder)}",
        )
    found = incident.of(run)
    if found is not None and found.closed is None:
        return (f"Close the incident with incident_{plan}; no new run opens before that.",)
    return (f"Trigger cutover_{plan} when the next window begins.",)
