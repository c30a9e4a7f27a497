"""Steps as Airflow tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.errors import CutoverError
from include.cutover.masking import mask
from include.cutover.steps import step as steps
from include.cutover.steps.step import Body, Caller, Step, Terms
from include.cutover.tasks import time_limits
from include.cutover.tasks.connections import AirflowEnds

# A fault of the program comes again, however often it is tried.
_FAULTS = (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, ImportError, ValueError)


def step_of(plan: str, name: str, context: Any) -> Step:
    """The step as Airflow calls it."""
    return Step(plan, name, caller_of(context), AirflowEnds())


def caller_of(context: Any) -> Caller:
    """Who runs a step, as Airflow knows."""
    dag_run, instance = context["dag_run"], context["ti"]
    return Caller(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        actor=dag_run.triggering_user_name,
        params=dict(context["params"]),
        try_number=instance.try_number,
        log_url=getattr(instance, "log_url", "") or "",
        triggered_at=dag_run.run_after,
    )


class StepOperator(BaseOperator):
    """Runs one step.

    Args:
        plan: The plan's name.
        step: The step's name in the evidence; the task id without its group by default.
        body: Plain function that takes the ``Step`` and returns a ``Report``.
        terms: When it may run.
        arguments: Further keyword arguments of ``body``; mapped tasks expand over them.
    """

    template_fields: Sequence[str] = ()
    _at_work = False
    ui_color = "#e8eef7"

    def __init__(
        self,
        *,
        plan: str,
        body: Body,
        step: str | None = None,
        terms: Terms = Terms(),  # noqa: B008  # frozen
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.body = body
        self.step = step
        self.terms = terms
        self.arguments = arguments or {}

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the step; returns its summary and figures, for display only.

        Raises:
            AirflowFailException: When another try cannot help.
            RuntimeError: When another try may help, and so for whatever comes from outside; Airflow retries.
        """
        name = self.step or self.task_id.rsplit(".", 1)[-1]
        if "stream" in self.arguments:
            name = f"{name}.{self.arguments['stream']}"
        body = time_limits.in_time(self.body, self.execution_timeout)
        self._at_work = True
        try:
            with time_limits.hard_limit(self.execution_timeout):
                report = steps.run(self.as_step(name, context), body, self.terms, self.arguments)
        except CutoverError as error:
            text = mask(str(error))
            if not error.retry_helps:
                raise AirflowFailException(text) from None
            self.log.warning("another try may help: %s", text)
            raise RuntimeError(text) from None
        except _FAULTS as error:
            raise AirflowFailException(f"another try cannot help: {type(error).__name__}: {mask(str(error))}") from error
        finally:
            self._at_work = False
        if report.outcome == "failed":
            raise AirflowFailException(report.failure)
        return {"summary": report.summary, "figures": report.figures}

    def as_step(self, name: str, context: Any) -> Step:
        """The step that is run."""
        return step_of(self.plan, name, context)

    def on_kill(self) -> None:
        """Airflow calls this on SIGTERM, in the middle of the step: end it now. Its sessions in the target end with it."""
        if self._at_work:
            raise SystemExit("Airflow told this task to end")


class BranchOperator(StepOperator, BranchMixIn):
    """Runs a step that decides, and follows the branch that its outcome stands for.

    Args:
        branches: Task id for each outcome of the decision; an outcome that is not there follows none.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, branches: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = branches

    def execute(self, context: Any) -> dict[str, Any]:
        """Decide, then skip what was not chosen."""
        result = super().execute(context)
        self.do_branch(context, self.branches.get(result["figures"]["outcome"]))
        return result
