"""Sends, for ``outbox_<plan>``, the notices that a step could not send, that fell due, or that were released."""

from __future__ import annotations

from include.cutover.aftercare import record as aftercare_record
from include.cutover.evidence.record import Evidence, evidence_root
from include.cutover.people import notices, outbox_files
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import schedule
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.call import Call
from include.cutover.steps.step import frozen_plan

SECONDS = 20.0


def send_pending(call: Call) -> str:
    """Send what is ready in every run of the plan that has something to send; rehearsals send nothing.

    With nothing to send this reads three folders. Returns the numbers sent and failed, and why each of them failed.
    """
    sent, failed = 0, []
    for folder in (evidence_root() / call.plan, schedule.folder(call.plan), aftercare_record.folder(call.plan)):
        for evidence in outbox_files.marked(folder):
            plan = plan_of(call.plan, evidence)
            for delivery in notice_steps.deliver(evidence, plan, call.ends.channels, seconds=SECONDS):
                sent += delivery.outcome == "sent"
                if delivery.outcome != "sent":
                    failed.append(f"{delivery.notice} to {delivery.channel}: {delivery.error}")
            notices.unmark(evidence, notice_steps.names(plan) if notice_steps.wanted(evidence) else [])
    return f"{sent} sent, {len(failed)} failed" + (f": {'; '.join(failed)}" if failed else "")


def plan_of(name: str, evidence: Evidence) -> Plan:
    """Return the plan frozen in a run; for a schedule, which freezes none, the plan's file."""
    return frozen_plan(evidence) or load_plan(name)
