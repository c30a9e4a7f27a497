"""An ordinary user's pipeline: another user than the application's and PostgreSQL's, and files that root left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.evidence.record import Evidence, evidence_root
from include.cutover.source import fence
from tests.exploring import users
from tests.exploring.arena import Arena
from tests.exploring.judging import Before, Judge
from tests.exploring.points import Fault
from tests.exploring.shop import forked
from tests.exploring.site import PLAN, Site
from tests.exploring.users import APPLICATION, PIPELINE, SHARED, STRANGER, command_as, rights, take

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become several users; the other tests run as one")


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        users.warm_up(made)
        yield made


@pytest.fixture
def wal() -> bool:
    return True


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest, wal: bool) -> Iterator[Site]:
    with users.site_of_users(arena, f"site-{abs(hash(request.node.name))}", wal=wal) as made:
        yield made


@pytest.fixture
def before(site: Site) -> Before:
    return Before.of(site)


def outcome(evidence: Evidence) -> str:
    sealed = evidence.sealed
    return "open" if sealed is None else str(sealed["outcome"])


def verdict(site: Site, before: Before) -> list[str]:
    site.evidence = evidence_root()  # it may have moved to its second place
    return Judge(site, before).verdict(outcome(site.of("one")))


def test_an_ordinary_user_cuts_over_and_rolls_back(site: Site, before: Before) -> None:
    given = rights(site.shop.database), rights(site.shop.configuration)
    run = site.trigger("one")
    site.world.walk()
    assert (run.state, outcome(site.of("one"))) == ("success", "live"), site.trace[-20:]
    assert verdict(site, before) == []
    assert rights(site.shop.configuration) == given[1]
    site.trigger_rollback("back", "one")
    site.world.walk()
    assert outcome(site.of("one")) == "rolled_back", site.trace[-20:]
    assert verdict(site, before) == []
    assert (rights(site.shop.database), rights(site.shop.configuration)) == given
    made = [path for name in ("evidence", "backups", "second") for path in (site.folder / name).rglob("*")]
    assert {path.stat().st_uid for path in made} == {PIPELINE.uid}, "every step ran as that user"
    log = site.folder / "logs" / "api.log"
    assert log.stat().st_uid == APPLICATION.uid, "and the application as another"


CHANGES: dict[str, tuple[Callable[[Site], Path], int, str]] = {
    "the database": (lambda site: site.shop.database, 0o644, "source_replaceable"),
    "its folder": (lambda site: site.shop.database.parent, 0o755, "source_replaceable"),
    "the configuration": (lambda site: site.shop.configuration, 0o644, "configuration_replaceable"),
    "the configuration's folder": (lambda site: site.shop.configuration.parent, 0o755, "configuration_replaceable"),
    "the backups": (lambda site: site.folder / "backups", 0o755, "backup_directory"),
    "their second place": (lambda site: site.folder / "second", 0o700, "second_copy_directory"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_rights_that_were_lost_after_preflight_end_the_run_before_anything_stops(
    site: Site, before: Before, changed: str
) -> None:
    where, mode, name = CHANGES[changed]
    run = site.trigger("one")
    site.reach(run, "prepare_target.apply_migrations")
    owner, group, own_mode = rights(where(site))
    take(where(site), mode)
    site.world.walk()
    evidence = site.of("one")
    assert outcome(evidence) == "abandoned", site.trace[-20:]
    assert evidence.last("services.stopped") is None
    ended = evidence.step("wait_for_window")
    told = str(ended)
    if ended is not None and ended["outcome"] == "failed":
        assert name in {check["name"] for check in ended["checks"] if check["outcome"] == "failed"}
    for words in (f"user {PIPELINE.uid}", "user 0 (root)", f"mode {mode:04o}"):
        assert words in told, told
    os.chown(where(site), owner, group)
    where(site).chmod(own_mode)
    assert verdict(site, before) == []


def test_preflight_refuses_a_group_that_the_user_cannot_give(site: Site) -> None:
    """The owner is the pipeline's user, so only an attempt shows it: the way back could not give the backup to the group."""
    os.chown(site.shop.database, PIPELINE.uid, 4242)
    site.shop.database.chmod(0o666)
    site.trigger("one")
    site.world.walk()
    checked = site.of("one").step("check_source")
    assert checked is not None
    failed = {check["name"]: check["found"] for check in checked["checks"] if check["outcome"] == "failed"}
    assert set(failed) == {"source_replaceable"}
    assert "group 4242" in failed["source_replaceable"] and f"user {PIPELINE.uid}" in failed["source_replaceable"]
    assert outcome(site.of("one")) == "abandoned"


EVIDENCE: dict[str, tuple[Callable[[Site], Path], int]] = {
    "the root": (lambda site: site.evidence, 0o755),
    "the run's folder": (lambda site: site.of("one").folder, 0o755),
    "the events": (lambda site: site.of("one").folder / "events.jsonl", 0o644),
    "the claims": (lambda site: site.evidence / PLAN / ".claims", 0o700),
    "the claim of the plan": (lambda site: site.evidence / PLAN / ".claims" / "plan", 0o600),
    "the lock of the lease": (lambda site: site.evidence / PLAN / ".lease.lock", 0o600),
}


@pytest.mark.parametrize("changed", EVIDENCE)
def test_a_run_whose_evidence_root_took_in_the_window_brings_the_application_back(
    site: Site, before: Before, changed: str
) -> None:
    where, mode = EVIDENCE[changed]
    run = site.trigger("one")
    site.reach(run, "take_backup")
    take(where(site), mode)
    site.world.walk()
    if outcome(site.of("one")) != "live":  # some are needed by a way back only
        assert outcome(site.of("one")) == "rolled_back", site.trace[-20:]
    assert verdict(site, before) == [], site.trace[-20:]
    if outcome(site.of("one")) == "live":
        site.trigger_rollback("back", "one")
        site.world.walk()
        assert outcome(site.of("one")) == "rolled_back", site.trace[-20:]
        assert verdict(site, before) == []


@pytest.mark.parametrize("point", [25, 60, 100, None])
def test_the_user_goes_on_after_roots_command_was_killed(site: Site, before: Before, point: int | None) -> None:
    run = site.trigger("one")
    site.reach(run, "go_live.start_services")
    site.world.runs.remove(run)
    command_as(site, None, lambda: site.break_glass(site.of("one")), fault=Fault(point, signal.SIGKILL))
    if outcome(site.of("one")) != "rolled_back":
        site.trigger_rollback("back", "one")
        site.world.walk()
    assert outcome(site.of("one")) == "rolled_back", site.trace[-20:]
    assert verdict(site, before) == []
    assert rights(site.shop.database)[:2] == (PIPELINE.uid, SHARED)


def test_a_command_of_a_stranger_is_refused_before_anything_is_stopped(site: Site, before: Before) -> None:
    site.trigger("one")
    site.world.walk()
    evidence = site.of("one")
    told = evidence.events()
    attempt = command_as(site, STRANGER, lambda: site.break_glass(evidence))
    assert "this user is not the owner of the evidence" in attempt.result["error"]
    for words in (f"user {STRANGER.uid}", f"user {PIPELINE.uid}", "mode 0644"):
        assert words in attempt.result["error"]
    assert evidence.events() == told and list((site.folder / "second_evidence").iterdir()) == []
    assert site.shop.up() == ["api", "worker"]
    assert verdict(site, before) == []
    assert command_as(site, PIPELINE, lambda: site.break_glass(evidence)).result["outcome"] == "success"
    assert verdict(site, before) == []


@pytest.mark.parametrize("wal", [False])
def test_a_program_of_another_user_does_not_write_into_the_file_that_was_replaced(site: Site, before: Before) -> None:
    """It holds the unfenced file open, and the pipeline's user cannot see that: SQLite itself refuses a file that was moved.

    In WAL mode it would hold a lock, which every user sees.
    """
    run = site.trigger("one")
    site.reach(run, "take_backup")
    fence.lift(site.shop.database)
    PIPELINE.own(site.shop.database.parent, group=SHARED)
    asked, ask = os.pipe()
    opened, tell = os.pipe()
    child = forked(lambda: _write_later(site.shop.database, asked, tell))
    assert os.read(opened, 1) == b"o"
    site.world.walk()
    assert outcome(site.of("one")) == "rolled_back", site.trace[-20:]
    os.write(ask, b"w")
    answer = os.read(opened, 200).decode()
    os.waitpid(child, 0)
    for descriptor in (asked, ask, opened, tell):
        os.close(descriptor)
    found = site.of("one").last("source.found")
    assert found is not None and found["kept_in"] is not None, "the file was replaced"
    assert "readonly" in answer, answer
    assert verdict(site, before) == []


def _write_later(database: Path, asked: int, tell: int) -> None:
    APPLICATION.become()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM books").fetchone()
        os.write(tell, b"o")
        os.read(asked, 1)
        try:
            connection.execute("INSERT INTO books (author_id, title, price) VALUES (1, 'of another program', 1)")
            answer = "written"
        except sqlite3.Error as error:
            answer = str(error)
        os.write(tell, answer.encode())
