"""Closes the aftercare: the closing notice and the post-cutover report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import report as aftercare_report
from include.cutover.errors import StepFailed
from include.cutover.steps.aftercare.ask import written_since
from include.cutover.steps.aftercare.watch import Watch, as_sentence, notify
from include.cutover.steps.step import Report


def close_aftercare(watch: Watch) -> Report:
    """Send the closing notice and write the post-cutover report. Safe to run again: a notice is sent once.

    Raises:
        StepFailed: On purpose, unless every round was green and every check could be made: the run is red then.
    """
    if not watch.evidence.exists or watch.evidence.last(aftercare_record.OPENED) is None:
        raise StepFailed(
            "the aftercare was never opened", where=watch.run_id, do="See the task open_aftercare for the reason."
        )
    closed = watch.evidence.last(aftercare_record.CLOSED)
    if closed is None:
        events = watch.evidence.events()
        if aftercare_record.answer(events, watch.entitled) is not None and aftercare_record.is_live(watch.cutover):
            ended = "rolled_back"  # the rollback is running
        else:
            ended = aftercare_record.outcome(events, live=aftercare_record.is_live(watch.cutover))
        written = written_since(watch) if ended != "rolled_back" else ""
        closed = watch.evidence.append(
            aftercare_record.CLOSED, outcome=ended, summary=aftercare_record.ENDS[ended], written=written
        )
    ended = str(closed["outcome"])
    if ended != "rolled_back":  # a rollback has its own notice
        notify(watch, "closing", "closing", as_sentence(_ended(watch, closed)))
    watch.evidence.save(aftercare_report.FILE, aftercare_report.render(watch.evidence, watch.cutover, watch.plan))
    if ended != "quiet":
        raise StepFailed(
            closed["summary"],
            where=watch.run_id,
            do="Read the post-cutover report, and correct the causes of the red rounds.",
        )
    return Report(_ended(watch, closed), {"outcome": ended})


def _ended(watch: Watch, closed: Mapping[str, Any]) -> str:
    made = aftercare_record.looks(watch.evidence.events())
    return f"{closed['summary']}, of {len(made)} rounds in {watch.settings.minutes:g} minutes"
