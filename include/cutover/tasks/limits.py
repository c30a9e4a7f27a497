"""Time limits and retries of tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from include.cutover.plan.model import Plan
from include.cutover.steps.step import Terms

STEP_TIME = timedelta(minutes=15)


"""After which a step is ended that moves no data; it hangs then."""


PATIENCE: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=2),
    "execution_timeout": STEP_TIME,
}


def way_back(course: str) -> dict[str, Any]:
    """For a step that must run whatever happened before it, once the run goes that way; empty for any way."""
    return {**PATIENCE, "terms": Terms(way_back=True, course=(course,) if course else ())}


def time_for_data(plan: Plan) -> dict[str, Any]:
    """Settings of a step that reads or writes all rows: it may take the whole window, and is ended after that."""
    return {"execution_timeout": max(STEP_TIME, timedelta(minutes=plan.window.minutes))}
