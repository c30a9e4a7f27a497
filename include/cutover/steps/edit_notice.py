"""Shows, edits, releases and withholds notices, for the communicator, the lead and the deputies."""

from __future__ import annotations

from datetime import UTC, datetime

from include.cutover.errors import Refused
from include.cutover.evidence.record import Evidence, runs
from include.cutover.people import notices
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import deciders, schedule
from include.cutover.steps import notices as notice_steps
from include.cutover.steps.call import Call
from include.cutover.steps.send_pending import SECONDS, plan_of


def edit_notice(call: Call) -> str:
    """Carry the form out on a notice of a run. Safe to run again.

    Raises:
        Refused: When anyone but the communicator, the lead or a deputy asks, when there is no such run or notice, or when a
            notice that was delivered would get another text.
    """
    plan, params = load_plan(call.plan), call.caller.params
    actor = deciders.require_editor(plan, call.caller.actor, "edit and release notices")
    evidence = subject(plan, str(params.get("run") or "").strip())
    plan = plan_of(plan.name, evidence)
    action, notice, text = params["action"], str(params.get("notice") or ""), str(params.get("text") or "").strip()
    if action == "preview":
        return overview(evidence, plan)
    if text:
        notices.edit(evidence, notice, text, by=actor, channels=notice_steps.names(plan))
    if action == "withhold":
        notices.withhold(evidence, notice, by=actor, channels=notice_steps.names(plan))
    else:
        notices.release(evidence, notice, by=actor)
        notice_steps.deliver(evidence, plan, call.ends.channels, seconds=SECONDS)
    return f"{notice}: {notice_steps.delivery_status(evidence, notice, plan)[2]}"


def subject(plan: Plan, wanted: str) -> Evidence:
    """Return the named run; without a name what is scheduled, else the newest run.

    Raises:
        Refused: When there is none.
    """
    if wanted:
        found = [item for item in (Evidence.of(plan.name, wanted), schedule.of(plan.name, wanted)) if item.exists]
    else:
        scheduled = schedule.waiting(plan.name)
        opened = [run for run in runs(plan.name) if run.last("run.opened") is not None]
        found = [schedule.of(plan.name, scheduled["run_id"])] if scheduled else opened[-1:]
    if not found:
        raise Refused(
            "there is no such run",
            where=f"plan {plan.name}",
            found=wanted or "no run has opened yet",
            do="Name a run of this plan.",
        )
    return found[0]


def overview(evidence: Evidence, plan: Plan) -> str:
    """List the notices of a run: text, time, and who got them."""
    now, lines = datetime.now(UTC), [f"notices of {evidence.folder.name}:"]
    for name, notice in notices.outbox(evidence.events()).items():
        when = f"due at {notice.ready:%Y-%m-%d %H:%M} UTC" if now < notice.ready else "due"
        lines += [
            "",
            f"{name} ({when}; {notice_steps.delivery_status(evidence, name, plan)[2]})",
            notice.message.subject,
            notice.message.text,
        ]
    return "\n".join(lines)
