"""Tasks of the DAGs beside the cutover: they call a plain function, and hold no worker while it has to wait."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, DagRunTriggerException

from include.cutover.steps.call import Call, NotNeeded, NotYet
from include.cutover.tasks.ends import AirflowEnds
from include.cutover.tasks.operators import LOOK_AGAIN, caller_of, for_airflow


class CallOperator(BaseOperator):
    """Calls a function with a ``Call``.

    A function that raises ``NotYet`` is called again at that time, and every five minutes before, to check that it should
    still wait; where it raises ``NotNeeded`` the task is skipped.

    Args:
        plan: The plan's name.
        body: The function; its result is shown.
    """

    template_fields = ()
    ui_color = "#f3efe2"

    def __init__(self, *, plan: str, body: Callable[[Call], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.body = body

    def execute(self, context: Any) -> Any:
        """Call the function; return its result."""
        with for_airflow(self.log):
            try:
                result = self.body(Call(self.plan, caller_of(context), AirflowEnds()))
            except NotYet as later:
                raise AirflowRescheduleException(min(later.until, datetime.now(UTC) + LOOK_AGAIN)) from None
            except NotNeeded as nothing:
                raise AirflowSkipException(str(nothing)) from None
        self.log.info("%s", result)
        return result


class BeginOperator(CallOperator):
    """Triggers the cutover whose run id and form the function returns.

    Airflow passes the name of the person who triggered this run on to that one.
    """

    def execute(self, context: Any) -> Any:
        """Trigger the cutover; a run that exists already was triggered by an earlier try."""
        run_id, form = super().execute(context)
        raise DagRunTriggerException(
            trigger_dag_id=f"cutover_{self.plan}",
            dag_run_id=run_id,
            conf=form,
            logical_date=None,
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=["success"],
            failed_states=["failed"],
            poke_interval=60,
            deferrable=False,
        )
