"""Links on a task's page in Airflow's interface: to the report of its run, and to the Data Docs of a check.

Both are evaluated by the API server when somebody looks at a task; a task writes nothing for them, and they are there while
it still waits or runs. They are global links, so Airflow asks them about the tasks of every DAG: for those that are no part
of a cutover they answer with an empty text, and nothing is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ReportLink(BaseOperatorLink):
    """The report of the cutover that the task's run is, or works on."""

    name = "Cutover report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Address of the report; empty where the run left no evidence."""
        from include.cutover.report.addresses import evidence_of, key_of_dag_run

        plan = plan_of(ti_key.dag_id)
        if not plan:
            return ""
        key = key_of_dag_run(ti_key.dag_id, plan, ti_key.run_id)
        if not (evidence_of(plan, key).exists or _is_aftercare(plan, ti_key)):
            return ""
        return f"{base_path()}/cutover/-/dag_run/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"


class DataDocsLink(BaseOperatorLink):
    """The Data Docs that a check wrote: ``data_docs/<stage>/`` of the run's evidence, for the task ``check_<stage>``."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Address of the Data Docs; empty as long as there are none."""
        from include.cutover.report.addresses import evidence_of, key_of_dag_run

        plan = plan_of(ti_key.dag_id)
        if not plan:
            return ""
        key = key_of_dag_run(ti_key.dag_id, plan, ti_key.run_id)
        folder = evidence_of(plan, key).folder
        stage = ti_key.task_id.rsplit(".", 1)[-1].removeprefix("check_")
        if not (folder / "data_docs" / stage / "index.html").is_file():
            return ""
        return f"{base_path()}/cutover/{plan}/{key}/data_docs/{stage}/index.html"


def links_of_run(plan: str, run_id: str) -> list[tuple[str, str]]:
    """The report of a run and the Data Docs that it has so far: text and address of each."""
    from include.cutover.evidence.record import Evidence

    folder = Evidence.of(plan, run_id).folder
    address = f"{base_path()}/cutover/{plan}/{folder.name}"
    stages = sorted(page.parent.name for page in folder.glob("data_docs/*/index.html"))
    docs = [(f"Data Docs: {stage}", f"{address}/data_docs/{stage}/index.html") for stage in stages]
    return [("Report of this run", f"{address}/"), *docs]


def _is_aftercare(plan: str, ti_key: TaskInstanceKey) -> bool:
    """Whether it is a run of the aftercare's DAG that looks after a cutover."""
    from include.cutover.aftercare import record as aftercare_record

    return ti_key.dag_id == f"aftercare_{plan}" and aftercare_record.subject_of(plan, ti_key.run_id) is not None


def plan_of(dag_id: str) -> str:
    """The plan that a DAG's name speaks of, ``<verb>_<plan>``; empty where the name has no such form.

    Says nothing about whether there is such a plan.
    """
    found = re.fullmatch(r"[a-z]+_([a-z][a-z0-9_]{0,40})", dag_id)
    return found.group(1) if found else ""


def base_path() -> str:
    """Path under which Airflow is served, without a slash at the end; empty at the root of its host."""
    from airflow.configuration import conf

    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
