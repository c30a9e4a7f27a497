"""Steps of a rehearsal as Airflow tasks."""

from __future__ import annotations

from typing import Any

from include.cutover.steps.rehearsal_step import RehearsalStep
from include.cutover.steps.step import Step
from include.cutover.tasks.ends import AirflowEnds
from include.cutover.tasks.operators import StepOperator, caller_of


class RehearsalOperator(StepOperator):
    """Runs one step of a rehearsal: on the clone and the disposable database, with its own evidence."""

    rehearses = True
    ui_color = "#f3ecda"

    def as_step(self, name: str, context: Any) -> Step:
        """Return the step, with the ends of the rehearsal."""
        return RehearsalStep(self.plan, name, caller_of(context), AirflowEnds())
