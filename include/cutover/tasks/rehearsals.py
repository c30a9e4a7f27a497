"""Steps of a rehearsal as Airflow tasks."""

from __future__ import annotations

from typing import Any

from include.cutover.steps.rehearse import RehearsalStep
from include.cutover.steps.step import Step
from include.cutover.tasks.ends import AirflowEnds
from include.cutover.tasks.operators import StepOperator, caller_of


class RehearsalOperator(StepOperator):
    """Runs one step of a rehearsal: on the clone, against the disposable database, with evidence of its own."""

    ui_color = "#f3ecda"

    def as_step(self, name: str, context: Any) -> Step:
        """The step, with the ends of the rehearsal."""
        return RehearsalStep(self.plan, name, caller_of(context), AirflowEnds())
