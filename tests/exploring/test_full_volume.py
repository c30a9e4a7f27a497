"""The whole volume of the target's server is full: nothing can grow, or only the write-ahead log, and the server ends.

Each run goes back or goes live, the judge finds every row, and the failure names the disk, or the end of the server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.exploring.arena import Arena
from tests.exploring.judging import Before, Judge
from tests.exploring.site import PLAN, POSTGRESQL, Site
from tests.support.full_volume import FullVolume, full_volume
from tests.support.incidents import close_incidents

MEMORY = Path("/dev/shm")
FREE = "Free disk space where the server keeps its data, its write-ahead log"
RECOVERS = "the target accepts no sessions now: it starts, stops or recovers from a crash"


@pytest.fixture(scope="module")
def volume() -> Iterator[FullVolume]:
    with tempfile.TemporaryDirectory(prefix="full-volume-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        with full_volume(Path(folder) / "disk", 320, POSTGRESQL) as made:
            yield made


@pytest.fixture(scope="module")
def arena(volume: FullVolume) -> Iterator[Arena]:
    with Arena(volume.cluster) as made:
        yield made


@pytest.fixture
def site(arena: Arena, volume: FullVolume, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(f"site-{abs(hash(request.node.name))}") as made:
        try:
            yield made
        finally:
            volume.mend()


@pytest.fixture
def before(site: Site) -> Before:
    return Before.of(site)


def outcome(site: Site, run_id: str = "one") -> str:
    sealed = site.of(run_id).sealed
    return "open" if sealed is None else str(sealed["outcome"])


def failures(site: Site) -> str:
    """Return why steps did not pass, but for those that are refused because the run goes back already."""
    return "\n".join(
        str(event["summary"])
        for event in site.of("one").events()
        if event["event"] == "step.end" and event["outcome"] not in ("passed", "refused")
    )


def kept(site: Site) -> str:
    step = site.of("one").step("rollback.keep_target")
    assert step is not None
    return str(step["summary"])


AFTER = {
    "the copy": "quiesce.fence_source",
    "finish": "copy.Odd_Table_aab06b",
    "the proof": "verify.check_tables",
    "let in": "go_live.approve",
}


@pytest.mark.parametrize("where", AFTER)
def test_a_volume_without_a_free_byte_sends_the_run_back(site: Site, before: Before, volume: FullVolume, where: str) -> None:
    run = site.trigger("one")
    site.reach(run, AFTER[where])
    volume.fill()
    site.world.walk()
    volume.mend()
    assert outcome(site) == "rolled_back", site.trace[-20:]
    assert Judge(site, before).verdict("rolled_back") == []
    assert "the target's disk is full" in failures(site) and FREE in failures(site)
    assert "Correct the file" not in failures(site)


FUEL = {
    "the copy": ("quiesce.fence_source", 3_000),
    "keys and indexes": ("copy.Odd_Table_aab06b", 3_000),
    "the write proof": ("verify.check_tables", 6_000),
    "let in": ("go_live.approve", 1_500),
}


@pytest.mark.parametrize("stays", [True, False], ids=["stays full", "room is made"])
@pytest.mark.parametrize("where", FUEL)
def test_a_log_that_cannot_grow_ends_the_server_and_the_run_goes_back_or_on(
    site: Site, before: Before, volume: FullVolume, where: str, stays: bool
) -> None:
    task, wal = FUEL[where]
    run = site.trigger("one")
    site.reach(run, task)
    begun = len(site.world.failures)
    volume.fill(wal)
    if not stays:
        site.world.walk(until=lambda: len(site.world.failures) > begun or volume.is_down)
        volume.mend()
    site.world.walk()
    assert volume.is_down is stays
    volume.mend()
    ended = outcome(site)
    assert ended == "rolled_back" or (ended == "live" and not stays), site.trace[-20:]
    assert Judge(site, before).verdict(ended) == []
    told = failures(site)
    assert any(words in told for words in ("No space left on device", "for instance a full disk", RECOVERS)), told
    assert "let this user in" not in told and "Correct the file" not in told
    if not stays:
        return
    assert "could not be set aside now" in kept(site)
    assert "let this user in" not in kept(site)
    # The next run finds the schema as it was left, sets it aside and goes live.
    assert close_incidents(PLAN) == ["one"]
    site.trigger("two")
    site.world.walk()
    assert outcome(site, "two") == "live", site.trace[-20:]
    assert site.of("one").last("target.kept") is not None


def test_a_commit_that_ended_the_server_leaves_a_marker_that_can_be_compared(
    site: Site, before: Before, volume: FullVolume
) -> None:
    """Numbers of transactions that wrote nothing are given out again after a crash."""
    run = site.trigger("one")
    site.reach(run, "go_live.approve")
    volume.fill(3_200)
    with psycopg.connect(site.conninfo) as connection:
        for _ in range(50):
            connection.execute("SELECT pg_current_xact_id()")
            connection.rollback()
    site.world.walk(until=lambda: bool(site.world.failures))
    assert "No space left on device" in site.world.failures[0]
    assert site.of("one").last("go_live.marker") is not None
    volume.mend()
    site.world.walk()
    assert outcome(site) == "rolled_back"
    assert "written after go-live: nothing" in kept(site)
    assert Judge(site, before).verdict("rolled_back") == []


@pytest.mark.parametrize("wal", [None, 400, 4_000], ids=["no byte free", "the log ends soon", "the log ends later"])
def test_a_rollback_after_go_live_on_a_full_volume(site: Site, before: Before, volume: FullVolume, wal: int | None) -> None:
    site.trigger("one")
    site.world.walk()
    assert outcome(site) == "live"
    back = site.trigger_rollback("back", "one")
    site.reach(back, "rollback.stop_services")
    volume.fill(wal)
    site.world.walk()
    assert (back.state, outcome(site)) == ("success", "rolled_back"), site.trace[-20:]
    volume.mend()
    assert Judge(site, before).verdict("rolled_back") == []
    close_incidents(PLAN)
    site.trigger("two")
    site.world.walk()
    assert outcome(site, "two") == "live", site.trace[-20:]
    assert Judge(site, before).verdict("live") == []
