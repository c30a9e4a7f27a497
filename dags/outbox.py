"""# Outbox: sends the notices that are still to be delivered

Airflow runs this every minute, mostly with nothing to do. It sends the notices of this plan's runs that a channel missed,
that are due (change freeze, half time, three quarters, deadline) or that the communicator has released: once per channel,
and less often the more often a channel fails. After a day it gives up; the run's report shows which notices did not arrive.
It is safe to pause it: each step of a cutover sends waiting notices, too.
"""

from __future__ import annotations

from datetime import UTC, datetime

from include.cutover.plan.model import Plan
from include.cutover.steps.send_pending import send_pending
from include.cutover.tasks import per_plan
from include.cutover.tasks.call import CallOperator
from include.cutover.tasks.limits import CALLS


def outbox(plan: Plan) -> None:
    """Create the task of the outbox."""
    CallOperator(task_id="send_pending", plan=plan.name, body=send_pending)


globals().update(
    per_plan.dags(
        "outbox",
        outbox,
        doc=__doc__,
        description="Sends the notices of {application} that are still to be delivered",
        settings=lambda _: {
            "schedule": "* * * * *",
            "start_date": datetime(2025, 1, 1, tzinfo=UTC),
            "catchup": False,
            "default_args": {**CALLS, "retries": 0},
        },
    )
)
