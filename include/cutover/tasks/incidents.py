"""The task that closes an incident. It has no evidence of its own: it writes into that of the run."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.errors import CutoverError
from include.cutover.masking import mask
from include.cutover.runs import incident
from include.cutover.steps import incidents


class CloseIncidentOperator(BaseOperator):
    """Closes the incident named in the form, in the name of the user who triggered the run.

    Args:
        plan: The plan's name.
    """

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Any) -> dict[str, Any]:
        """Close the incident; return the run and what was kept, for display."""
        form = context["params"]
        try:
            found = incidents.close(
                self.plan,
                str(form.get("run_id") or "").strip(),
                by=context["dag_run"].triggering_user_name,
                **{name: str(form[name]) for name in ("cause", "fix", "reference")},
            )
        except CutoverError as error:
            raise AirflowFailException(mask(str(error))) from None
        kept = {item.what: item.where for item in incident.kept(found.evidence)}
        self.log.info("the incident of %s is closed; kept: %s", found.run_id, kept)
        return {"run": found.run_id, "outcome": found.outcome, "kept": kept}
