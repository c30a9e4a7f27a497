"""Airflow's command with the imports of its tasks preloaded: ``python -m include.cutover.stack.preload SETS COMMAND…``.

LocalExecutor's workers are forks of the scheduler and tasks are forks of the workers, so a task has every module that the
scheduler has imported. SETS is one of these, or both with a comma between them:

``libraries``
    Great Expectations alone costs 3 s of processor time, which the tasks that verify would otherwise spend while the
    services are stopped.
``project``
    This project's own modules cost 0.1 s in each of some fifty tasks. Tasks then run the code as it was when the scheduler
    started, even when the files change: right for an Airflow that lives for one cutover, wrong for one that is developed
    on. DAG files are read anew by each task, so they must not change either.
"""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import sys

from include.cutover.stack import api_server

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


ROOT_PACKAGE = "include.cutover"

ELSEWHERE = {
    "include.cutover.__main__": "the command line, which runs when it is imported",
    "include.cutover.accounts.log_in": "a configuration file of the API server, which exits where a variable is not set",
    "include.cutover.stack.preload": "this program, under the name __main__",
    "include.cutover.ui.web": "pages of the API server, which import FastAPI",
}
"""Modules that are not preloaded, each with the reason."""

NEEDS = {"include.cutover.proof.validation_site": "great_expectations"}
"""Modules that import a heavy library: preloaded only where that library is."""


def load(sets: list[str]) -> None:
    """Import the modules of the sets.

    Raises:
        ValueError: When there is no such set.
    """
    if unknown := set(sets) - {"libraries", "project"}:
        raise ValueError(f"no such set: {', '.join(sorted(unknown))}")
    if "libraries" in sets:
        for name in LIBRARIES:
            importlib.import_module(name)
    if "project" in sets:
        _import_package(ROOT_PACKAGE)


def _import_package(package: str) -> None:
    """Import a package and every module below it, except those in ``ELSEWHERE`` and those that need an absent library."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        needed = NEEDS.get(module.name)
        if module.name in ELSEWHERE or (needed is not None and needed not in sys.modules):
            continue
        if module.ispkg:
            _import_package(module.name)
        else:
            importlib.import_module(module.name)


def main() -> None:
    """Load, then become ``airflow`` with the rest of this process's arguments; a scheduler waits for the API server."""
    load(sys.argv[1].split(","))
    if sys.argv[2:3] == ["scheduler"]:
        api_server.wait()
    sys.argv[:2] = ["airflow"]
    runpy.run_module("airflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
