"""The rollback that is typed when Airflow is down: at any point of a run, half done before, twice, without PostgreSQL.

The runs are real, on the small site of ``tests.exploring``; its judge checks the end.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from include.cutover.cli import break_glass
from include.cutover.cli.main import main
from include.cutover.errors import LeaseLost
from include.cutover.evidence import lease
from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.runs.verdict import has_begun
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.steps import rollback
from include.cutover.steps.step import FROZEN_PLAN, Report, Step
from tests.exploring.arena import Arena
from tests.exploring.judging import Before, Judge
from tests.exploring.points import Fault
from tests.exploring.site import PLAN, Site
from tests.exploring.walking import Run
from tests.support.incidents import close_incidents

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def arena(cluster: Cluster) -> Iterator[Arena]:
    with Arena(cluster) as arena:
        yield arena


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(f"site-{abs(hash(request.node.name))}", wal=True) as site:
        yield site


@pytest.fixture
def before(site: Site) -> Before:
    return Before.of(site)


def reach(site: Site, task_id: str) -> Evidence:
    run = site.trigger("one")
    site.reach(run, task_id)
    site.world.runs.remove(run)  # Airflow is down from here on
    return site.of("one")


def typed(evidence: Evidence, *more: str) -> int:
    return main(["rollback", "--plan", PLAN, "--evidence", str(evidence.folder), "--reason", "Airflow is down", *more])


def outcome(evidence: Evidence) -> str:
    sealed = evidence.sealed
    return "open" if sealed is None else str(sealed["outcome"])


POINTS = ("quiesce.stop_services", "quiesce.fence_source", "take_backup", "decide", "go_live.start_services", "close_run")


@pytest.mark.parametrize("task_id", POINTS)
def test_it_brings_the_application_back_from_any_point(
    site: Site, before: Before, task_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = reach(site, task_id)
    assert typed(evidence, "--by", "ana") == 0
    told = capsys.readouterr()
    assert told.out.count("✓") == 10, "open, the eight steps of the way back, close"
    assert "No notice was sent; send this: Library is back at" in told.out
    assert Judge(site, before).verdict(outcome(evidence)) == []
    assert outcome(evidence) == "rolled_back"
    asked = evidence.last("rollback.asked") or evidence.last("reopened")
    assert asked is not None and (asked["by"], asked["reason"]) == ("ana", "Airflow is down")
    assert "Airflow is down" in (evidence.folder / "incident.md").read_text()
    assert (evidence.folder / "report.html").exists()
    assert main(["evidence", "check", str(evidence.folder)]) == 0
    capsys.readouterr()
    assert typed(evidence) == 2, "what is rolled back is not rolled back again"
    assert "there is nothing to roll back" in capsys.readouterr().err
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_a_run_that_stopped_nothing_is_ended_and_another_may_begin(site: Site, before: Before) -> None:
    evidence = reach(site, "prepare_target.apply_ddl")
    assert typed(evidence) == 0
    assert outcome(evidence) == "abandoned"
    assert Judge(site, before).verdict("abandoned") == []
    again = site.trigger("two")
    site.world.walk()
    assert again.state == "success"


def without_plan_and_sql(site: Site, evidence: Evidence) -> None:
    (site.plans / f"{PLAN}.yaml").unlink()
    os.environ["CUTOVER_SQL"] = str(site.folder / "nowhere")


def with_a_broken_plan(site: Site, evidence: Evidence) -> None:
    (site.plans / f"{PLAN}.yaml").write_text("name: [")


def with_another_plan(site: Site, evidence: Evidence) -> None:
    file = site.plans / f"{PLAN}.yaml"
    file.write_text(file.read_text().replace("etc/app.env", "etc/other.env"))


def without_the_ledger(site: Site, evidence: Evidence) -> None:
    with psycopg.connect(site.conninfo) as connection:
        connection.execute("DROP SCHEMA cutover CASCADE")


def with_a_torn_event(site: Site, evidence: Evidence) -> None:
    with (evidence.folder / EVENTS).open("ab") as file:
        file.write(b'{"seq":')


def without_the_first_copy(site: Site, evidence: Evidence) -> None:
    event = evidence.last("backup")
    assert event is not None
    Path(event["file"]).write_bytes(b"")
    Path(event["manifest"]).unlink()


@pytest.mark.parametrize(
    "missing", [without_plan_and_sql, with_a_broken_plan, with_another_plan, without_the_ledger, with_a_torn_event]
)
def test_it_needs_only_the_evidence(site: Site, before: Before, missing: Callable[[Site, Evidence], None]) -> None:
    evidence = reach(site, "close_run")
    missing(site, evidence)
    assert typed(evidence) == 0
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_it_restores_from_the_second_copy_of_the_backup(site: Site) -> None:
    evidence = reach(site, "copy.books")
    without_the_first_copy(site, evidence)
    assert typed(evidence) == 0
    restored = evidence.step("rollback.restore_source")
    backup = evidence.last("backup")
    assert restored is not None and backup is not None
    assert restored["figures"]["sha256"] == backup["sha256"]


def test_a_changed_frozen_plan_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = reach(site, "copy.books")
    frozen = evidence.folder / FROZEN_PLAN
    whole = frozen.read_text()
    frozen.write_text(whole.replace("etc/app.env", "etc/other.env"))
    (site.plans / f"{PLAN}.yaml").unlink()
    assert typed(evidence) == 2
    assert "the plan in the evidence differs from its record" in capsys.readouterr().err
    assert evidence.last("rollback.asked") is None, "nothing was done"
    frozen.write_text(whole)
    assert typed(evidence) == 0


@pytest.mark.parametrize("known", [True, False])
def test_without_postgresql_the_target_stays_pending_and_the_next_run_sets_it_aside(
    site: Site, before: Before, known: bool
) -> None:
    evidence = reach(site, "close_run")
    if known:
        os.environ["AIRFLOW_CONN_LIBRARY_TARGET"] = f"postgresql://me:secret@127.0.0.1:{free_port()}/x"
    else:
        del os.environ["AIRFLOW_CONN_LIBRARY_TARGET"]
    assert typed(evidence) == 0
    kept = evidence.step("rollback.keep_target")
    assert kept is not None and kept["figures"]["pending"] is True
    assert kept["figures"]["rows_written_after_go_live"] == "unknown"
    assert Judge(site, before).verdict(outcome(evidence)) == []
    os.environ.update(site.environment)
    assert close_incidents(PLAN) == ["one"]
    again = site.trigger("two")
    site.world.walk()
    assert again.state == "success"
    assert Judge(site, before).verdict("live") == []
    assert evidence.last("target.kept") is not None


@pytest.mark.parametrize("point", [25, 100, None])
def test_a_killed_rollback_is_completed_by_the_next_call(site: Site, before: Before, point: int | None) -> None:
    evidence = reach(site, "go_live.start_services")
    first = site.world.command("break glass", lambda: site.break_glass(evidence), Fault(point, signal.SIGKILL))
    site.world.walk()
    assert "exit status -9" in first.result["error"]
    if outcome(evidence) != "rolled_back":
        assert typed(evidence) == 0
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_after_losing_the_lease_nothing_more_is_done(site: Site, before: Before) -> None:
    evidence = reach(site, "go_live.start_services")

    def stand_still(_: Step) -> Report:
        os.kill(os.getpid(), signal.SIGSTOP)
        return Report("done")

    def stopped_in_the_middle() -> object:
        with mock.patch.dict(rollback.BODIES, {"rollback.keep_target": stand_still}):
            return site.break_glass(evidence)

    first = site.world.command("the first", stopped_in_the_middle, None)
    while not first.stopped:
        site.world.look()
    # It stands still in the middle of a step: the second ends it there, as nobody may work beside a rollback.
    assert typed(evidence, "--by", "the second") == 0
    site.world.look()
    assert "exit status -9" in first.result["error"]
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_a_rollback_without_the_lease_refuses_the_next_step(site: Site, before: Before) -> None:
    evidence = reach(site, "take_backup")

    def tell(name: str, report: object) -> None:
        if name == "rollback.keep_target" and report is not None:
            lease.take_over(PLAN, "one", "rollback_library/another")

    with pytest.raises(LeaseLost):
        break_glass.rollback(PLAN, evidence.folder, reason="a test", by="the first", on_step=tell)
    assert [event["event"] for event in evidence.events()][-1] == "step.end", "not even a record of its own"
    assert not has_begun(evidence.events(), "rollback.restore_source") and outcome(evidence) == "open"
    assert typed(evidence) == 0
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_any_error_of_a_step_seals_the_run_as_failed(site: Site, before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = reach(site, "take_backup")
    monkeypatch.setattr(break_glass, "PAUSE_SECONDS", 0.0)

    def fail(_: Step) -> Report:
        raise OSError(5, "Input/output error")

    with mock.patch.dict(rollback.BODIES, {"rollback.restore_source": fail}), pytest.raises(OSError, match="Input/output"):
        break_glass.rollback(PLAN, evidence.folder, reason="a test", by="the first")
    assert outcome(evidence) == "failed"
    assert typed(evidence) == 0
    assert Judge(site, before).verdict(outcome(evidence)) == []


def test_the_folder_may_be_a_link_or_the_current_one(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = reach(site, "take_backup")
    monkeypatch.chdir(evidence.folder)
    assert main(["rollback", "--plan", PLAN, "--evidence", ".", "--reason", "Airflow is down"]) == 0
    assert "No notice was sent; send this: Library is back at" in capsys.readouterr().out
    assert outcome(evidence) == "rolled_back"


def test_airflow_that_comes_back_does_nothing_more(site: Site, before: Before) -> None:
    run = site.trigger("one")
    site.reach(run, "copy.books")
    assert typed(site.of("one")) == 0
    site.world.walk()
    assert run.state == "failed"
    assert outcome(site.of("one")) == "rolled_back"
    assert Judge(site, before).verdict("rolled_back") == []


def test_logs_are_kept_without_secrets(site: Site) -> None:
    evidence = reach(site, "close_run")
    assert typed(evidence) == 0
    for name in ("api", "worker"):
        log = evidence.folder / "kept" / "logs" / f"{name}.log"
        text = log.read_text()
        assert f"{name} connects to sqlite:///" in text and f"{name} connects to postgresql+psycopg://" in text
        assert "the password is ***, by the way" in text
        assert log.stat().st_mode & 0o777 == 0o600
    for path in evidence.folder.rglob("*"):
        assert not path.is_file() or b"of-the-shop" not in path.read_bytes(), path


def test_a_missing_log_does_not_stop_the_rollback(site: Site) -> None:
    evidence = reach(site, "close_run")
    shutil.rmtree(site.folder / "logs")
    (site.folder / "logs").mkdir(mode=0o755)
    assert typed(evidence) == 0
    stopped = evidence.step("rollback.stop_services")
    assert stopped is not None and set(stopped["figures"]["logs_missing"]) == {"api", "worker"}


def test_an_application_that_cannot_write_is_not_healthy(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    folder = site.shop.database.parent
    if os.geteuid() == 0:
        for path in (site.shop.database, folder):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    evidence = reach(site, "copy.books")
    folder.chmod(0o555)
    status = typed(evidence)
    folder.chmod(0o755)
    told = capsys.readouterr().err
    assert status == 2 and ("The application's user can write" in told or "cannot be written" in told)
    assert outcome(evidence) == "failed"
    assert typed(evidence) == 0
    assert site.shop.database.stat().st_uid == folder.stat().st_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_files_written_by_root_get_the_owner_of_the_evidence(site: Site) -> None:
    evidence = reach(site, "copy.books")
    for path in (site.evidence, *site.evidence.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert typed(evidence) == 0
    strangers = [path for path in site.evidence.rglob("*") if path.stat().st_uid != NOBODY.pw_uid]
    assert strangers == []


def rolled_back_by_airflow(site: Site) -> Run:
    run = site.trigger_rollback("back")
    site.world.walk()
    return run


def test_a_rollback_by_airflow_continues_a_failed_one(site: Site, before: Before) -> None:
    evidence = reach(site, "go_live.start_services")
    broken = site.shop.configuration.with_name("aside")
    site.shop.configuration.rename(broken)
    assert typed(evidence) == 2
    assert outcome(evidence) == "failed"
    broken.rename(site.shop.configuration)
    assert rolled_back_by_airflow(site).state == "success"
    assert Judge(site, before).verdict(outcome(evidence)) == []
