"""Steps as Airflow tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.branch import BranchMixIn
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from include.cutover.errors import CutoverError
from include.cutover.masking import mask
from include.cutover.steps import notices as notice_steps
from include.cutover.steps import step as steps
from include.cutover.steps.step import Body, Caller, Report, Step, Terms
from include.cutover.tasks import time_limits
from include.cutover.tasks.ends import AirflowEnds

LOOK_AGAIN = timedelta(minutes=5)
"""How soon a task that waits without a worker looks whether it still should."""

# A fault of the program comes again, however often it is tried.
_FAULTS = (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, ImportError, ValueError)


def step_of(plan: str, name: str, context: Any) -> Step:
    """The step as Airflow calls it."""
    return Step(plan, name, caller_of(context), AirflowEnds())


def caller_of(context: Any) -> Caller:
    """Who calls, as Airflow knows."""
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


@contextmanager
def for_airflow(log: Any) -> Iterator[None]:
    """Turn an error into what Airflow tries again, or does not.

    Raises:
        AirflowFailException: When another try cannot help.
        RuntimeError: When it may.
    """
    try:
        yield
    except CutoverError as error:
        text = mask(str(error))
        if not error.retry_helps:
            raise AirflowFailException(text) from None
        log.warning("another try may help: %s", text)
        raise RuntimeError(text) from None
    except _FAULTS as error:
        raise AirflowFailException(f"another try cannot help: {type(error).__name__}: {mask(str(error))}") from error


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
            with for_airflow(self.log), time_limits.hard_limit(self.execution_timeout):
                report = self.run_step(name, body, context)
        finally:
            self._at_work = False
        if report.outcome == "failed":
            raise AirflowFailException(report.failure)
        return {"summary": report.summary, "figures": report.figures}

    def run_step(self, name: str, body: Body, context: Any) -> Report:
        """Run ``body`` as that step."""
        step = self.as_step(name, context)
        self.before(step)
        return steps.run(step, body, self.terms, self.arguments)

    def as_step(self, name: str, context: Any) -> Step:
        """The step that is run."""
        return step_of(self.plan, name, context)

    def before(self, step: Step) -> None:
        """What is done before the step begins; nothing here."""

    def on_kill(self) -> None:
        """Airflow calls this on SIGTERM, in the middle of the step: end it now. Its sessions in the target end with it."""
        if self._at_work:
            raise SystemExit("Airflow told this task to end")


class WindowOperator(StepOperator):
    """Waits for the run's window without a worker: the task ends, and Airflow starts it again when it is time.

    It looks now and then whether the run still goes forward. When the window has begun it passes at once.
    """

    def before(self, step: Step) -> None:
        """Come back later while the window has not begun."""
        now, start = datetime.now(UTC), notice_steps.clock_of(step.evidence, step.plan).start
        if now < start:
            steps.may_run(step, self.terms)
            notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
            self.log.info("the window begins at %s", f"{start:%Y-%m-%d %H:%M:%S} UTC")
            raise AirflowRescheduleException(min(start, now + LOOK_AGAIN))


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
