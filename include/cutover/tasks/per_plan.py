"""The factory of the DAG files: one DAG of a kind for each plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param, get_parsing_context
from airflow.sdk.exceptions import AirflowFailException

from include.cutover.errors import PlanInvalid
from include.cutover.masking import mask
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.tasks.limits import STEP_TIME, STEPS
from include.cutover.tasks.plans import plan_for_dag
from include.cutover.tasks.queues import assign_queues

FAULTS_SHOWN_BY = "cutover"
"""The kind whose DAG shows the faults of a broken plan; the other kinds have no DAG of that plan."""


def dags(
    kind: str,
    build: Callable[[Plan], object],
    *,
    doc: str | None,
    description: str,
    form: Mapping[str, Param] | None = None,
    settings: Callable[[Plan], Mapping[str, Any]] = lambda _: {},
) -> dict[str, DAG]:
    """Return the DAGs of a kind, by their ids, for the globals of the DAG file.

    A plan with faults takes no other plan down. A task's process parses the file again and gets its own DAG only.

    Args:
        kind: The first part of the DAG's id and a tag.
        build: Makes tasks and chain of a plan; called within the DAG.
        doc: The operators' manual: the docstring of the DAG file.
        description: One line; ``{application}`` stands for the application of the plan.
        form: Fields of the trigger form.
        settings: Further arguments of the DAG, and arguments to set otherwise than here.
    """
    found = {}
    for name in _wanted(kind):
        try:
            plan = plan_for_dag(name)
        except PlanInvalid as error:
            if kind == FAULTS_SHOWN_BY:
                found[f"{kind}_{name}"] = _dag_of_faults(f"{kind}_{name}", kind, error)
            continue
        arguments: dict[str, Any] = {
            "description": description.format(application=plan.application),
            "doc_md": doc,
            "schedule": None,
            "max_active_runs": 1,
            "is_paused_upon_creation": False,
            "params": dict(form or {}),
            "tags": [kind, plan.name],
            "default_args": STEPS,
        }
        with DAG(dag_id=f"{kind}_{plan.name}", **{**arguments, **settings(plan)}) as dag:
            build(plan)
        assign_queues(dag, plan)
        found[dag.dag_id] = dag
    return found


def _wanted(kind: str) -> Iterator[str]:
    """Yield the names of all plans, or of the one whose DAG is wanted."""
    wanted = get_parsing_context().dag_id
    for file in sorted(Path(plans_folder()).glob("*.yaml")):
        if wanted in (None, f"{kind}_{file.stem}"):
            yield file.stem


class FaultsOperator(BaseOperator):
    """Fails with the faults of a plan.

    Args:
        faults: The faults.
    """

    def __init__(self, *, faults: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults = faults

    def execute(self, context: Any) -> None:
        """Fail."""
        raise AirflowFailException(self.faults)


def _dag_of_faults(dag_id: str, kind: str, error: PlanInvalid) -> DAG:
    """Return a DAG that shows the faults of a plan."""
    faults = mask(str(error))
    with DAG(
        dag_id=dag_id,
        description="This plan has faults",
        doc_md=f"# This plan has faults\n\n```\n{faults}\n```",
        schedule=None,
        tags=[kind, "broken plan"],
    ) as dag:
        FaultsOperator(task_id="faults_of_the_plan", faults=faults, retries=0, execution_timeout=STEP_TIME)
    return dag
