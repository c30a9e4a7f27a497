"""Airflow's command with the libraries of the tasks loaded beforehand: ``python -m include.cutover.preloaded scheduler``.

LocalExecutor's workers are forks of the scheduler and tasks are forks of the workers. What the scheduler has imported, a
task finds there: Great Expectations alone costs 4 s of processor time, which the tasks that verify would otherwise spend
while the services are stopped. Only libraries are loaded, never this project's own modules, so that each task reads the
code as it is on disk.
"""

from __future__ import annotations

import importlib
import runpy
import sys

LIBRARIES = (
    "apsw.sqlite_extra",
    "dotenv",
    "httpx",
    "psycopg",
    "pydantic",
    "sqlalchemy",
    "xmlrpc.client",
    "yaml",
    "great_expectations",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.dagbag",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.slack.hooks.slack_webhook",
    "airflow.providers.smtp.hooks.smtp",
    "airflow.providers.sqlite.hooks.sqlite",
    "airflow.providers.standard.operators.branch",
    "airflow.providers.standard.operators.hitl",
    "airflow.providers.standard.operators.python",
    "airflow.sdk.execution_time.task_runner",
)


def main() -> None:
    """Load the libraries, then become ``airflow`` with this process's arguments."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.argv[0] = "airflow"
    runpy.run_module("airflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
