"""Workers that cannot reach the application's file, and an application that came up again in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from xmlrpc.client import ServerProxy

import pytest

from include.cutover.runs import runbook
from include.cutover.steps import sqlite_again
from include.cutover.steps.step import Caller, Step
from include.cutover.tasks.ends import AirflowEnds
from tests.exploring.arena import Arena
from tests.exploring.shop import PROGRAMS
from tests.exploring.site import PLAN, Site


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        yield made


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(request.node.name) as made:
        yield made


def test_what_runs_anywhere_never_asks_for_the_applications_file(site: Site) -> None:
    def source(step: Step) -> Path:
        assert not runbook.row_of(step.name).anywhere, f"{step.name} asks for the source"
        return step.ends.source_path(step.plan)

    with mock.patch.object(Step, "source", property(source)):
        run = site.trigger("one")
        site.world.walk()
    sealed = site.of("one").sealed
    assert (run.state, sealed and sealed["outcome"]) == ("success", "live"), site.trace[-20:]
    ended = {event["step"] for event in site.of("one").events() if event["event"] == "step.end"}
    anywhere = {row.name for row in runbook.ROWS if row.anywhere}
    assert len(ended & anywhere) >= len(anywhere) - 2, "most of them ran"


def test_services_that_came_up_again_do_not_run_on_the_old_configuration(site: Site) -> None:
    """As after a restart of their host: they hold the SQLite file's address, and go-live must not take them for started."""
    run = site.trigger("one")
    site.reach(run, "verify.check_tables")
    with ServerProxy(site.shop.supervisor_url, allow_none=True) as supervisor:
        for name in PROGRAMS:
            supervisor.supervisor.startProcess(name, False)
    site.world.walk()
    sealed = site.of("one").sealed
    assert sealed and sealed["outcome"] == "live", site.trace[-20:]
    switched = next(
        event for event in site.of("one").events() if event.get("step") == "switch_configuration" and "summary" in event
    )
    assert "had started since the stop and were stopped again" in switched["summary"]


def test_services_are_started_anew_but_not_by_each_try(site: Site) -> None:
    """Airflow takes a step for dead whose heart-beats come late, and lets another try follow, also one that passed."""
    run = site.trigger("one")
    site.reach(run, "quiesce.fence_source")
    site.trigger_rollback("back", "one")
    site.world.walk()
    evidence = site.of("one")
    assert evidence.sealed and evidence.sealed["outcome"] == "rolled_back", site.trace[-20:]
    step = Step(PLAN, "rollback.start_services", Caller("rollback_library", "back", "lead"), AirflowEnds())

    def begun() -> dict[str, int]:
        with ServerProxy(site.shop.supervisor_url, allow_none=True) as supervisor:
            return {name: supervisor.supervisor.getProcessInfo(name)["pid"] for name in PROGRAMS}  # type: ignore[call-overload, index, misc]

    first = begun()
    assert "were started anew" in sqlite_again.start_services(step).summary
    second = begun()
    assert not set(second.values()) & set(first.values())
    for outcome in ("passed", "error"):
        evidence.append("step.end", step=step.name, outcome=outcome, summary="")
        evidence.append("step.begin", step=step.name)
        assert "anew" not in sqlite_again.start_services(step).summary and begun() == second
    evidence.append("step.begin", step="rollback.check_health")
    assert "were started anew" in sqlite_again.start_services(step).summary
