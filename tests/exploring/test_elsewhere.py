"""Workers that cannot reach the application's file, and an application that came up again in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from xmlrpc.client import ServerProxy

import pytest

from include.cutover.runs import runbook
from include.cutover.steps.step import Step
from tests.exploring.arena import Arena
from tests.exploring.shop import PROGRAMS
from tests.exploring.site import Site


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
