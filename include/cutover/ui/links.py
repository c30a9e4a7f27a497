"""Links on a task's page in Airflow's interface: to the report of its run, and to the Data Docs of a check.

The API server evaluates both when a task's page is opened; a task writes nothing for them, and they exist while it still
waits or runs. They are global links, so Airflow asks them about the tasks of every DAG: for tasks outside a cutover they
return an empty text, and nothing is shown.
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
    """The report of the task's run, or of the cutover that the run works on."""

    name = "Cutover report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the report; empty where the run left no evidence."""
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
        """Return the address of the Data Docs; empty while there are none."""
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
    """Return text and address of a run's report and of the Data Docs that it has so far."""
    from include.cutover.evidence.record import Evidence

    folder = Evidence.of(plan, run_id).folder
    address = f"{base_path()}/cutover/{plan}/{folder.name}"
    stages = sorted(page.parent.name for page in folder.glob("data_docs/*/index.html"))
    docs = [(f"Data Docs: {stage}", f"{address}/data_docs/{stage}/index.html") for stage in stages]
    return [("Report of this run", f"{address}/"), *docs]


def _is_aftercare(plan: str, ti_key: TaskInstanceKey) -> bool:
    """Report whether it is a run of the aftercare's DAG that watches a cutover."""
    from include.cutover.aftercare import record as aftercare_record

    return ti_key.dag_id == f"aftercare_{plan}" and aftercare_record.subject_of(plan, ti_key.run_id) is not None


def plan_of(dag_id: str) -> str:
    """Return the plan in a DAG's id, ``<verb>_<plan>``; empty for an id of another form.

    The plan need not exist.
    """
    found = re.fullmatch(r"[a-z]+_([a-z][a-z0-9_]{0,40})", dag_id)
    return found.group(1) if found else ""


def base_path() -> str:
    """Return the path under which Airflow is served, without a trailing slash; empty at the root of its host."""
    from airflow.configuration import conf

    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
