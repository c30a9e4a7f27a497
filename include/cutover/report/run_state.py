"""Where a run stands, and what to do next, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from include.cutover.report.events import RunEvents
from include.cutover.report.steps import StepHistory


class RunState(NamedTuple):
    """Where a run stands.

    Attributes:
        outcome: A word for programs, as in the seal.
        headline: The same in words.
        sentence: One sentence about it.
        tone: One of good, warn, bad, calm, busy.
    """

    outcome: str
    headline: str
    sentence: str
    tone: str


_STATES = {
    "live": RunState("live", "Live on PostgreSQL", "The application runs on PostgreSQL; every step before passed.", "good"),
    "rolled_back": RunState(
        "rolled_back", "Rolled back", "The application runs on SQLite again, with the data of the backup.", "warn"
    ),
    "released": RunState(
        "released",
        "Released",
        "Called off after the services had stopped: they run on SQLite again. No data was lost.",
        "warn",
    ),
    "abandoned": RunState(
        "abandoned", "Abandoned", "Called off before the services were stopped: the application was not touched.", "calm"
    ),
    "failed": RunState("failed", "Failed", "The run did not reach a safe end. It needs attention now.", "bad"),
    "rehearsed": RunState("rehearsed", "Rehearsed", "Every step passed on a clone, including the way back.", "good"),
    "rehearsal_failed": RunState(
        "rehearsal_failed",
        "Rehearsal failed",
        "The application was not touched. The same failure would have stopped a cutover.",
        "bad",
    ),
    "lost": RunState("lost", "Taken over", "Another run took over. This one does nothing more.", "warn"),
    "running": RunState("running", "Running", "The run is still open.", "busy"),
}


NEXT_STEPS = {
    "live": (
        "Follow the aftercare: it checks logs, jobs and PostgreSQL, takes a first backup, and asks you when a check fails.",
        "Without aftercare: watch the logs for an hour; check that scheduled jobs run and that PostgreSQL is backed up.",
        "The SQLite backup is kept as long as the plan's retention says.",
    ),
    "rolled_back": (
        "Read the first failure and incident.md.",
        "The target's data was set aside for the investigation; nothing was dropped.",
        "Plan a new window only after the cause is found and fixed.",
    ),
    "released": (
        "Read the first failure. The source was not overwritten.",
        "Plan a new window after the cause is fixed.",
    ),
    "abandoned": ("Read the first failure. Plan a new window after the cause is fixed.",),
    "failed": (
        "Read the first failure and check the services now.",
        "Run the rollback DAG. It needs only this evidence and the plan.",
    ),
    "rehearsed": ("Plan the window. After a change of schema, plan, SQL or code, rehearse again.",),
    "rehearsal_failed": (
        "Read the first failure. Database and files are kept until the next rehearsal.",
        "Fix the cause, then rehearse again.",
    ),
    "lost": ("Follow the run that holds the lease.",),
    "running": ("Wait for the end. If the run hangs, run the rollback DAG.",),
}


def state_of(run: RunEvents, steps: Mapping[str, StepHistory], failures: Sequence[StepHistory]) -> RunState:
    """Return where a run stands.

    Args:
        run: Its events.
        steps: All its steps by name.
        failures: Those of them that did not pass.
    """
    if run.sealed:
        outcome = str(run.sealed.get("outcome"))
        return _STATES.get(outcome, RunState(outcome, outcome.replace("_", " ").capitalize(), "", "warn"))
    if run.newest("reopened") or run.newest("rollback.asked") or any(s.phase == "Roll back" for s in steps.values()):
        return RunState("running", "Rolling back", "The rollback is not complete.", "bad" if failures else "busy")
    if run.newest("live"):
        return RunState(
            "running", "Live on PostgreSQL", "The application runs on PostgreSQL; the run is still open.", "good"
        )
    if failures:
        return RunState("running", "Running, with a failure", "A step did not pass; the run is still open.", "bad")
    asked, answered = run.newest("gate.asked"), run.newest("gate")
    if asked and (not answered or answered["seq"] < asked["seq"]):
        return RunState("running", "Waiting for an answer", f"The gate {asked.get('gate')} is waiting for the lead.", "busy")
    return _STATES["running"]
