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
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.terms import Terms
from include.cutover.steps import notices as notice_steps
from include.cutover.steps import running
from include.cutover.steps.step import Body, Caller, Report, Step
from include.cutover.tasks import time_limits
from include.cutover.tasks.ends import AirflowEnds
from include.cutover.tasks.limits import PATIENCE, time_for_data

LOOK_AGAIN = timedelta(minutes=5)
"""How often a task that waits without a worker checks that it still should."""

# An error of the program comes again with every try.
_FAULTS = (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, ImportError, ValueError)


def step_of(plan: str, name: str, context: Any) -> Step:
    """Return the step as Airflow calls it."""
    return Step(plan, name, caller_of(context), AirflowEnds())


def caller_of(context: Any) -> Caller:
    """Return the caller as Airflow knows it."""
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
    """Turn an error into one that Airflow retries, or does not.

    Raises:
        AirflowFailException: When another try cannot help.
        RuntimeError: When another try may help.
    """
    try:
        yield
    except CutoverError as error:
        text = mask(str(error))
        if not error.retry_helps:
            raise AirflowFailException(text) from None
        log.warning("a retry may help: %s", text)
        raise RuntimeError(text) from None
    except _FAULTS as error:
        raise AirflowFailException(f"a retry cannot help: {type(error).__name__}: {mask(str(error))}") from error


def step_name(task_id: str, given: str | None = None) -> str:
    """Return the name of a task's step in the evidence: the name given, or the task id without its group."""
    return given or task_id.rsplit(".", 1)[-1]


class StepOperator(BaseOperator):
    """Runs one step.

    Args:
        plan: The plan's name.
        step: The step's name in the evidence; the task id without its group by default.
        body: Plain function that takes the ``Step`` and returns a ``Report``.
        terms: When it may run.
        arguments: Further keyword arguments of ``body``; mapped tasks expand over them.

    Raises:
        LookupError: When the step has no row in the runbook.
    """

    template_fields: Sequence[str] = ()
    rehearses = False
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
        runbook.row_of(step_name(self.task_id, step))
        self.plan = plan
        self.body = body
        self.step = step
        self.terms = terms
        self.arguments = arguments or {}

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the step; return its summary and figures, for display only.

        Raises:
            AirflowFailException: When another try cannot help.
            RuntimeError: When another try may help, as for every error from outside; Airflow retries.
        """
        name = step_name(self.task_id, self.step)
        if "stream" in self.arguments:
            name = runbook.stream_of(name, self.arguments["stream"])
        body = time_limits.in_time(self.body, self.execution_timeout)
        self._at_work = True
        try:
            with for_airflow(self.log), time_limits.hard_limit(self.execution_timeout):
                report = self.run_step(name, body, context)
        finally:
            self._at_work = False
        if report.outcome == "failed":
            raise AirflowFailException(mask(report.failure))
        return {"summary": report.summary, "figures": report.figures}

    def run_step(self, name: str, body: Body, context: Any) -> Report:
        """Run ``body`` as that step."""
        step = self.as_step(name, context)
        self.before(step)
        return running.run(step, body, self.terms, self.arguments)

    def as_step(self, name: str, context: Any) -> Step:
        """Return the step to run."""
        return step_of(self.plan, name, context)

    def before(self, step: Step) -> None:
        """Do nothing; called before the step begins."""

    def on_kill(self) -> None:
        """End the step now: Airflow calls this on SIGTERM. The sessions of the step in the target end with it."""
        if self._at_work:
            raise SystemExit("Airflow ended this task")


class WindowOperator(StepOperator):
    """Waits for the run's window without a worker: the task ends, and Airflow starts it again at the window's start.

    Every five minutes it checks that the run still goes forward. When the window has begun it passes immediately.
    """

    def before(self, step: Step) -> None:
        """Reschedule while the window has not begun."""
        clock = notice_steps.clock_of(step.evidence, step.plan)
        if left := clock.until_start():
            running.may_run(step, self.terms)
            notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
            self.log.info("the window begins at %s", f"{clock.start:%Y-%m-%d %H:%M:%S} UTC")
            if said := clock.disagreement():
                self.log.warning("%s; the window begins when clock and elapsed time both say so", said)
            raise AirflowRescheduleException(datetime.now(UTC) + min(left, LOOK_AGAIN))


class BranchOperator(StepOperator, BranchMixIn):
    """Runs a step that decides, and follows the branch that its outcome stands for.

    Args:
        branches: Outcome of the decision → task id; an outcome without a task follows none.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, branches: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = branches

    def execute(self, context: Any) -> dict[str, Any]:
        """Decide, then skip the branches that were not chosen."""
        result = super().execute(context)
        self.do_branch(context, self.branches.get(result["figures"]["outcome"]))
        return result


class StepFactory:
    """Makes the tasks of a plan's steps: terms, time limit and retries come from the runbook.

    Args:
        plan: The plan.
        operator: Runs the steps, where a call names no other.
    """

    def __init__(self, plan: Plan, operator: type[StepOperator] = StepOperator) -> None:
        self.plan = plan
        self.operator = operator

    def __call__(
        self,
        task_id: str,
        body: Body,
        *,
        step: str | None = None,
        operator: type[StepOperator] | None = None,
        **settings: Any,
    ) -> StepOperator:
        """Return the task of a step.

        Args:
            task_id: The task's id within its group.
            body: The step's function.
            step: The step's name in the evidence; the task id by default.
            operator: Runs the step.
            settings: Further arguments of the operator; they override those from the runbook.
        """
        kind, name = operator or self.operator, step_name(task_id, step)
        return kind(task_id=task_id, plan=self.plan.name, step=step, body=body, **{**self.settings(name, kind), **settings})

    def mapped(self, task_id: str, body: Body, arguments: Sequence[dict[str, Any]], *, step: str, **settings: Any) -> None:
        """Create one task for each of the arguments of a step.

        Args:
            task_id: The task's id within its group.
            body: The step's function.
            arguments: Keyword arguments of ``body``, for each of the tasks.
            step: The step's name in the evidence.
            settings: Further arguments of the operator.
        """
        given = {**self.settings(step, self.operator), **settings}
        partial = self.operator.partial(task_id=task_id, plan=self.plan.name, body=body, step=step, **given)
        partial.expand(arguments=list(arguments))

    def if_planned(self, task_id: str, body: Body, **settings: Any) -> list[StepOperator]:
        """Return the task of a step, or nothing where the plan has no such step."""
        return [self(task_id, body, **settings)] if runbook.row_of(task_id).planned(self.plan) else []

    def settings(self, name: str, operator: type[StepOperator]) -> dict[str, Any]:
        """Return the arguments of an operator that come from the runbook."""
        terms = runbook.terms_of(name, self.plan, rehearsal=operator.rehearses)
        found: dict[str, Any] = {"terms": terms}
        if terms.way_back or terms.on_full_disk:
            found |= PATIENCE
        if runbook.row_of(name).moves_data:
            found |= time_for_data(self.plan)
        return found
