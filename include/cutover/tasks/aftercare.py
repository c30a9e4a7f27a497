"""The aftercare's steps as Airflow tasks, which hold no worker while they wait, and the triggers between the DAGs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, DagRunTriggerException

from include.cutover.aftercare import record as aftercare_record
from include.cutover.plan.model import Plan
from include.cutover.steps.aftercare import ask, watch
from include.cutover.steps.aftercare.watch import Watch
from include.cutover.steps.call import NotYet
from include.cutover.steps.step import Body, Report
from include.cutover.tasks.ends import AirflowEnds
from include.cutover.tasks.gates import Gate
from include.cutover.tasks.operators import StepOperator, caller_of, step_of


def watch_of(plan: str, name: str, context: Any) -> Watch:
    """Return the step as Airflow calls it."""
    return Watch(plan, name, caller_of(context), AirflowEnds())


class AftercareOperator(StepOperator):
    """Runs one step of the aftercare; until that is due, its worker is free."""

    def run_step(self, name: str, body: Body, context: Any) -> Report:
        """Run ``body`` as that step."""
        try:
            return watch.run(watch_of(self.plan, name, context), body, self.arguments)
        except NotYet as later:
            raise AirflowRescheduleException(later.until) from None


class RollbackQuestion(Gate):
    """Waits for a red round, without a worker, then asks the lead and the deputies whether to roll back.

    No answer means that the application stays live: its rows since go-live are not lost without an answer.
    Skipped when the aftercare ends without a red round.
    """

    def __init__(self, *, plan: Plan, **kwargs: Any) -> None:
        super().__init__(
            plan=plan, gate=aftercare_record.QUESTION, question=f"Roll {plan.application} back to SQLite?", **kwargs
        )
        self.options = [aftercare_record.ROLL_BACK, aftercare_record.STAY]
        self.defaults = [aftercare_record.STAY]

    def execute(self, context: Any) -> Any:
        """Reschedule, skip, or ask."""
        step = watch_of(self.plan_name, self.task_id, context)
        try:
            question = ask.wait_for_question(step)
        except NotYet as later:
            raise AirflowRescheduleException(later.until) from None
        if question is None:
            raise AirflowSkipException("there is nothing to ask")
        self.body = ask.ask(step, question)
        return self.wait_for_answer(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer that Airflow brings."""
        chosen, by = self.read_answer(context, event)
        answer = ask.record_answer(watch_of(self.plan_name, self.task_id, context), chosen, by)
        return {"answer": answer, "by": by}


class StartAftercare(BaseOperator):
    """Triggers the aftercare of a run that went live; skipped for any other.

    It runs before ``close_run``, which alone decides the colour of the run: a failure here does not change the outcome. It
    can be cleared, and the aftercare can be triggered by hand.
    """

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Any) -> None:
        """Trigger, once for each cutover."""
        step = step_of(self.plan, self.task_id, context)
        if not step.plan.aftercare.enabled or not aftercare_record.is_live(step.evidence):
            raise AirflowSkipException("there is nothing to watch")
        raise _trigger(f"aftercare_{self.plan}", f"aftercare__{step.run_id}"[:240], {"run_id": step.run_id})


class StartRollback(BaseOperator):
    """Triggers the rollback that an entitled person asked for; skipped when there was no such answer.

    That person stands in the aftercare's evidence; Airflow would name the one who took the run live.
    """

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Any) -> None:
        """Trigger, once for each answer."""
        step = watch_of(self.plan, self.task_id, context)
        run_id = ask.request_rollback(step)
        if run_id is None:
            raise AirflowSkipException("there is no request for a rollback")
        raise _trigger(f"rollback_{self.plan}", run_id, {"run_id": step.run_id, "reason": "requested by the aftercare"})


def _trigger(dag_id: str, run_id: str, form: dict[str, str]) -> DagRunTriggerException:
    """Return the exception that makes Airflow trigger a run and not wait for it.

    Airflow's own operator loads its models: half a second more for each task of a DAG file that names it.
    """
    return DagRunTriggerException(
        trigger_dag_id=dag_id,
        dag_run_id=run_id,
        conf=form,
        logical_date=None,
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=[],
        failed_states=[],
        poke_interval=60,
        deferrable=False,
    )
