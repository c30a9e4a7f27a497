"""The instant from which the deadline alerts count. Every process of Airflow loads this with the plugin, so it is small."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, ClassVar

from airflow.sdk.definitions.deadline import BaseDeadlineReference

log = logging.getLogger(__name__)


class TriggeredAt(BaseDeadlineReference):
    """The instant at which the run was triggered.

    Not Airflow's own ``DAGRUN_QUEUED_AT``: with an alert on that, Airflow 3.3.2 answers 500 when a task is cleared, as it
    takes the stored interval for a number. Not ``DAGRUN_LOGICAL_DATE``: with that it refuses a run that is triggered
    without one.
    """

    required_kwargs: ClassVar[set[str]] = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        # In the request that triggers the run: without its alerts it must start all the same.
        try:
            from airflow.models import DagRun
            from sqlalchemy import select

            query = select(DagRun.run_after).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
            found: datetime | None = session.scalar(query)
        except Exception:
            log.exception("the deadline alerts of %s cannot be set", run_id)
            return None
        return found
