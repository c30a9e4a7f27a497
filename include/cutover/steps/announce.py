"""Posts the notices of a run."""

from __future__ import annotations

from datetime import UTC, datetime

from include.cutover.people import notice_texts
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.step import Report, Step

ANNOUNCE_SECONDS = 5.0
"""How long an announcing step tries its channels; the outbox continues after that."""


def announce(step: Step, *, notice: str, reason: str = "") -> Report:
    """Post one notice and send it to every channel. Safe to run again: no channel gets a notice twice.

    Never fails: an undelivered notice stays in the outbox and is in the report.
    """
    moment = datetime.now(UTC) if notice == "rollback" else None
    notice_steps.post(step.evidence, step.plan, notice, run_id=step.run_id, reason=reason, moment=moment)
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels, seconds=ANNOUNCE_SECONDS)
    sent, missing, words = notice_steps.delivery_status(step.evidence, notice, step.plan)
    return Report(
        f"{step.plan.application}: {notice_texts.SUBJECTS[notice]}: {words}", {"sent": len(sent), "failed": len(missing)}
    )
