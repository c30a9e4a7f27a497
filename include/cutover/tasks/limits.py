"""Time limits and retries of tasks, as default arguments of DAGs and as settings of single tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from include.cutover.plan.model import Plan

STEP_TIME = timedelta(minutes=15)
"""A step that moves no data is ended after this time: it hangs then."""

STEPS: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(seconds=2), "execution_timeout": STEP_TIME}
"""For DAGs that run steps."""

CALLS: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(seconds=2), "execution_timeout": timedelta(minutes=5)}
"""For DAGs that call plain functions."""

NIGHTLY: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(minutes=1), "execution_timeout": timedelta(hours=4)}
"""For DAGs that run in the background and may move large files."""

PATIENCE: dict[str, Any] = {**STEPS, "retries": 3}
"""For a step that must run however the steps before it ended."""


def time_for_data(plan: Plan) -> dict[str, Any]:
    """Return the limit of a step that reads or writes all rows: the length of the window."""
    return {"execution_timeout": max(STEP_TIME, timedelta(minutes=plan.window.minutes))}
