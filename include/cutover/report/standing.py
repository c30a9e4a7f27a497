"""Where a run stands, and what to do next, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from include.cutover.report.events import RunEvents
from include.cutover.report.steps import StepHistory


class Standing(NamedTuple):
    """Where a run stands: a word for programs, a headline, a sentence, and one of good, warn, bad, calm, busy."""

    outcome: str
    headline: str
    sentence: str
    tone: str


_STANDINGS = {
    "live": Standing("live", "Live on PostgreSQL", "The application runs on PostgreSQL; every step before passed.", "good"),
    "rolled_back": Standing("rolled_back", "Rolled back", "The application runs on SQLite again, as of the backup.", "warn"),
    "released": Standing(
        "released",
        "Released",
        "Called off after the services had stopped: they run on SQLite again, nothing was lost.",
        "warn",
    ),
    "abandoned": Standing(
        "abandoned", "Abandoned", "Called off before anything was stopped: the application was not touched.", "calm"
    ),
    "failed": Standing("failed", "Failed", "The run did not reach a safe end: somebody must look now.", "bad"),
    "rehearsed": Standing("rehearsed", "Rehearsed", "Everything passed on a clone, the way back included.", "good"),
    "rehearsal_failed": Standing(
        "rehearsal_failed",
        "Rehearsal not green",
        "The application was not touched: this would have stopped a cutover.",
        "bad",
    ),
    "lost": Standing("lost", "Taken over", "Another run took over; this one does nothing more.", "warn"),
    "running": Standing("running", "Running", "The run is not closed.", "busy"),
}


NEXT_STEPS = {
    "live": (
        "Follow the aftercare: it looks at logs, jobs and PostgreSQL, takes a first backup, and asks when something is red.",
        "Without one: watch the logs for an hour, see that scheduled tasks run again, and that PostgreSQL is backed up.",
        "The backup of SQLite is kept for as long as the plan's retention says.",
    ),
    "rolled_back": (
        "Look at the first failure, and at the document incident.md.",
        "The target's data was put aside for the inquiry; nothing was dropped.",
        "Plan a new window only when the cause is known and corrected.",
    ),
    "released": (
        "Look at the first failure. Nothing of the source was overwritten.",
        "Plan a new window when the cause is corrected.",
    ),
    "abandoned": ("Look at the first failure. Plan a new window when the cause is corrected.",),
    "failed": (
        "Look at the first failure and at the state of the services now.",
        "Run the rollback DAG; it needs this evidence and the plan only.",
    ),
    "rehearsed": ("Plan the window. A change of schema, plan, SQL or code wants another rehearsal.",),
    "rehearsal_failed": (
        "Look at the first failure. Database and files are kept until the next rehearsal.",
        "Correct the cause, then rehearse again.",
    ),
    "lost": ("Follow the run that holds the lease.",),
    "running": ("Wait for the end. When nothing moves any more, run the rollback DAG.",),
}


def standing_of(run: RunEvents, steps: Mapping[str, StepHistory], failures: Sequence[StepHistory]) -> Standing:
    """Return where a run stands.

    Args:
        run: Its events.
        steps: All its steps by name.
        failures: Those of them that did not pass.
    """
    if run.sealed:
        outcome = str(run.sealed.get("outcome"))
        return _STANDINGS.get(outcome, Standing(outcome, outcome.replace("_", " ").capitalize(), "", "warn"))
    if run.newest("reopened") or run.newest("rollback.asked") or any(s.phase == "Roll back" for s in steps.values()):
        return Standing("running", "Rolling back", "The way back is not finished.", "bad" if failures else "busy")
    if run.newest("live"):
        return Standing(
            "running", "Live on PostgreSQL", "The application runs on PostgreSQL; the run is not closed.", "good"
        )
    if failures:
        return Standing("running", "Running, with a failure", "A step did not pass; the run is not closed.", "bad")
    asked, answered = run.newest("gate.asked"), run.newest("gate")
    if asked and (not answered or answered["seq"] < asked["seq"]):
        return Standing("running", "Waits for an answer", f"The gate {asked.get('gate')} is open for the lead.", "busy")
    return _STANDINGS["running"]
