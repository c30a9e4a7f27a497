"""Airflow's deadline alerts on a cutover: each has a look into the outbox at the instant when something should fall due.

An alert's instant is fixed when the run is triggered, and Airflow knows neither the form nor what the run records. So it
only notifies, and what it notifies of is what the evidence says: nothing where the run waits for its window, is live, or
is closed. See docs/decisions/0011-the-clock.md."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert

from include.cutover.plan.model import Plan
from include.cutover.tasks.deadline_reference import TriggeredAt

OPENING = timedelta(seconds=15)
"""A run without a start of its own begins its window when it opens, which is soon after it was triggered."""


def alerts(plan: Plan) -> list[DeadlineAlert]:
    """At half time, at three quarters and at the deadline of a window that begins when the run is triggered."""
    window = timedelta(minutes=plan.window.minutes)
    deadline = window - timedelta(minutes=plan.window.rollback_minutes * plan.window.rollback_margin)
    instants = {"half time": window / 2, "three quarters": window * 3 / 4, "deadline": deadline}
    return [
        DeadlineAlert(
            reference=TriggeredAt(),
            interval=after + OPENING,
            callback=SyncCallback("include.cutover.tasks.alerts.look", kwargs={"plan": plan.name}),
            name=name,
        )
        for name, after in instants.items()
        if after <= deadline
    ]


def look(plan: str, context: dict[str, Any]) -> str:
    """Send what has fallen due in the run, if it is still open. Called by Airflow's executor."""
    from include.cutover.evidence.record import Evidence
    from include.cutover.people import notices
    from include.cutover.steps import notices as notice_steps
    from include.cutover.steps.send_pending import SECONDS, plan_of
    from include.cutover.tasks.ends import AirflowEnds

    evidence = Evidence.of(plan, str(context["dag_run"]["dag_run_id"]))
    if not evidence.exists or notices.is_closed(evidence.events()):
        return "the run is not open"
    sent = notice_steps.deliver(evidence, plan_of(plan, evidence), AirflowEnds().channels, seconds=SECONDS)
    return ", ".join(f"{delivery.notice} to {delivery.channel}: {delivery.outcome}" for delivery in sent) or "nothing is due"
