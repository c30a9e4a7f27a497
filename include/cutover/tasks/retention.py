"""Retention's steps as Airflow tasks."""

from __future__ import annotations

from typing import Any

from include.cutover.steps.step import Body, Report
from include.cutover.tasks.operators import StepOperator, step_of


class RetentionOperator(StepOperator):
    """Runs one step of the retention: it belongs to no run, takes no lease, and records in the retention's own evidence."""

    def run_step(self, name: str, body: Body, context: Any) -> Report:
        """Run ``body`` as that step."""
        step = step_of(self.plan, name, context)
        report = body(step)
        step.log.info("%s", report.summary)
        return report
