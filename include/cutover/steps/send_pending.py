"""The outbox's own DAG: what the steps could not send, what has fallen due, what was released."""

from __future__ import annotations

from include.cutover.aftercare import record as aftercare_record
from include.cutover.evidence.record import Evidence, evidence_root
from include.cutover.people import notices, outbox_files
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import schedule
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.schedule import Call
from include.cutover.steps.step import frozen_plan

SECONDS = 20.0


def send_pending(call: Call) -> str:
    """Send what is ready in every run of the plan that has something to send; rehearsals tell nobody.

    With nothing to send this is a look into three folders.
    """
    sent = failed = 0
    for folder in (evidence_root() / call.plan, schedule.folder(call.plan), aftercare_record.folder(call.plan)):
        for evidence in outbox_files.marked(folder):
            plan = plan_of(call.plan, evidence)
            for delivery in notice_steps.deliver(evidence, plan, call.ends.channels, seconds=SECONDS):
                sent += delivery.outcome == "sent"
                failed += delivery.outcome != "sent"
            notices.unmark(evidence, notice_steps.names(plan) if notice_steps.wanted(evidence) else [])
    return f"{sent} sent, {failed} failed"


def plan_of(name: str, evidence: Evidence) -> Plan:
    """The plan as it was frozen in a run; for a schedule, which freezes nothing, as it is."""
    return frozen_plan(evidence) or load_plan(name)
