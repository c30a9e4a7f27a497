"""The queue of each task of a plan with ``source_queue``: what needs the application's files or services runs beside it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.runs import runbook

ANYWHERE = {
    "announce_start", "apply_ddl", "apply_migrations", "restore_test", "build_keys_and_indexes", "load_reference_data",
    "store_quarantine", "declare_foreign_keys", "set_sequences", "analyze_tables", "check_tables", "validate_foreign_keys",
    "smoke_test_database", "announce_completion",
}  # fmt: skip
BESIDE = {
    "open_run", "check_target", "check_source", "assess_source", "check_places", "stop_services", "fence_source",
    "take_backup", "snapshot_extras", "switch_configuration", "start_services", "restore_source", "revert_configuration",
    "lift_fence", "check_health", "close_run",
}  # fmt: skip


@pytest.fixture
def dags(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every DAG of the plan, built with a queue."""
    monkeypatch.setenv("WARD_OPS_SOURCE_QUEUE", "source")
    modules = [importlib.import_module(f"dags.{file.stem}") for file in sorted((ROOT / "dags").glob("*.py"))]
    yield [
        found for module in modules for name, found in vars(importlib.reload(module)).items() if name.endswith("_ward_ops")
    ]
    monkeypatch.undo()
    for module in modules:
        importlib.reload(module)


def test_whatever_needs_the_application_runs_beside_it_in_every_dag(dags: list[Any]) -> None:
    assert len(dags) >= 2
    beside = set()
    for dag in dags:
        for task in dag.tasks:
            mapped = getattr(task, "partial_kwargs", {})
            queue = mapped.get("queue") if mapped else task.queue
            name = task.task_id.rsplit(".", 1)[-1]
            roams = name in ANYWHERE or task.task_id.startswith("copy.")
            assert queue in ((None, "default") if roams else ("source",)), f"{dag.dag_id} {task.task_id}: {queue}"
            if not roams:
                beside.add(name)
    assert beside >= BESIDE


def test_every_step_that_roams_is_one(dags: list[Any]) -> None:
    names = {task.task_id.rsplit(".", 1)[-1] for dag in dags for task in dag.tasks}
    assert names >= ANYWHERE
    marked = {row.name for row in runbook.ROWS if row.anywhere and not row.mapped}
    assert marked == ANYWHERE, "what the table says; a step is added here as well, on purpose"


def test_without_a_queue_any_worker_will_do() -> None:
    assert load_plan("ward_ops").source_queue is None
