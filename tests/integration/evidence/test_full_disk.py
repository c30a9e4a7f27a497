"""The disk of the evidence runs full: nothing is torn, nothing is taken for recorded, and the way back still works."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.cutover.errors import CutoverError, Refused, StepFailed
from include.cutover.evidence import lease
from include.cutover.evidence.record import EVENTS, Evidence
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import disk_space
from include.cutover.runs.terms import Terms
from include.cutover.runs.verdict import has_passed
from include.cutover.stack.postgres import Cluster
from include.cutover.steps import decide as decide_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import Caller, Report, Step
from include.cutover.target import session as target_session
from tests.support.full_disk import fill, small_disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 48) as place:
        monkeypatch.setenv("CUTOVER_EVIDENCE", str(place))
        monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
        monkeypatch.setenv("WARD_OPS_SECOND_COPY", str(tmp_path / "second"))
        yield place


class Nowhere:
    """The two ends of a run that has none; only the file is there."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def source_path(self, plan: Plan) -> Path:
        return self.source

    def channels(self, plan: Plan) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody should ask for the {name}")


def step(tmp_path: Path, name: str, run_id: str = "run") -> Step:
    (tmp_path / "ward_ops.db").touch()
    return Step("ward_ops", name, Caller("cutover_ward_ops", run_id, "lead"), Nowhere(tmp_path / "ward_ops.db"))


def says(text: str) -> Any:
    return lambda _: Report(text)


# --- the record ----------------------------------------------------------------------------------------------------------


def test_an_event_is_recorded_whole_or_not_at_all(disk: Path) -> None:
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened")
    filler = fill(disk)
    recorded = [evidence.last("run.opened")]
    with pytest.raises(StepFailed, match="the disk is full") as caught:
        while True:
            recorded.append(evidence.append("step.end", step="check_source", outcome="passed", summary="x" * 700))
    assert str(evidence.folder / EVENTS) in caught.value.where and "Free disk space" in caught.value.do
    content = (evidence.folder / EVENTS).read_bytes()
    assert content.endswith(b"\n") and evidence.events() == recorded

    filler.unlink()
    evidence.append("step.end", step="check_source", outcome="failed")
    assert [event["seq"] for event in evidence.events()] == list(range(len(recorded) + 1))
    assert not list(evidence.folder.glob("torn-*"))


def test_a_torn_line_is_kept_until_there_is_room_to_set_it_aside(disk: Path) -> None:
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened")
    torn = b'{"seq":1,"event":"step.' + b"e" * 9_000  # a writer that was killed on a disk that has since run full
    with (evidence.folder / EVENTS).open("ab") as file:
        file.write(torn)
    filler = fill(disk)
    with pytest.raises(StepFailed, match="the disk is full"):
        evidence.append("step.begin", step="x")
    assert len(evidence.events()) == 1 and (evidence.folder / EVENTS).read_bytes().endswith(torn)
    filler.unlink()
    evidence.append("step.begin", step="x")
    (kept,) = evidence.folder.glob("torn-*")
    assert kept.read_bytes() == torn and len(evidence.events()) == 2


def test_files_and_lease_are_unchanged_on_a_full_disk(disk: Path) -> None:
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened")
    evidence.save("report.html", "old")
    lease.acquire("ward_ops", "run", "cutover_ward_ops/run")
    fill(disk)
    with pytest.raises(StepFailed, match="the disk is full"):
        evidence.save("report.html", "new" * 5_000)
    with pytest.raises(StepFailed, match="the disk is full"):
        lease.take_over("ward_ops", "run" * 3_000, "rollback_ward_ops/other")
    assert (evidence.folder / "report.html").read_text() == "old"
    held = lease.read("ward_ops")
    assert held is not None and held.holder == "cutover_ward_ops/run"
    assert [path.name for path in evidence.folder.iterdir() if path.name.startswith(".report")] == []


# --- steps ---------------------------------------------------------------------------------------------------------------


def test_steps_forward_are_refused_and_the_way_back_is_recorded(disk: Path, tmp_path: Path) -> None:
    first = step(tmp_path, "open_run")
    first.evidence.append("run.opened", run_id="run", plan="ward_ops")
    lease.acquire("ward_ops", "run", "cutover_ward_ops/run")
    for name in ("open_run", "stop_services", "take_backup"):
        assert run(step(tmp_path, name), says("done"), Terms(opens=True)).outcome == "passed"
    assert (disk / "ward_ops" / ".reserve").stat().st_blocks * 512 >= disk_space.RESERVE_BYTES

    def runs_full(_: Step) -> Report:
        fill(disk)
        return Report("copied " * 2_000)

    with pytest.raises(StepFailed, match="the disk is full"):
        run(step(tmp_path, "copy.users"), runs_full, Terms(opens=True))
    with pytest.raises(Refused, match="not enough free disk") as caught:
        run(step(tmp_path, "build_keys_and_indexes"), says("done"), Terms(opens=True))
    assert f"{disk_space.EVIDENCE_BYTES:,} bytes free" in caught.value.expected and str(disk) in caught.value.where

    decided = run(step(tmp_path, "decide"), decide_steps.decide, Terms(way_back=True, opens=True), {"at": "decide"})
    assert decided.figures["outcome"] == "rollback"
    assert any("copy.users began and never ended" in why for why in decided.figures["why"])
    assert not (disk / "ward_ops" / ".reserve").exists()
    for name in ("rollback.stop_services", "rollback.restore_source"):
        assert run(step(tmp_path, name), says("done"), Terms(way_back=True, opens=True)).outcome == "passed"
    evidence = Evidence.of("ward_ops", "run")
    assert has_passed(evidence.events(), "rollback.restore_source") and not has_passed(evidence.events(), "copy.users")
    for line in (evidence.folder / EVENTS).read_text().splitlines():
        json.loads(line)


def test_first_error_is_raised_even_when_it_cannot_be_recorded(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Evidence.of("ward_ops", "run").append("run.opened", run_id="run")

    def body(_: Step) -> Report:
        fill(disk)
        raise CutoverError("the target does not answer", found="x" * 9_000)

    with pytest.raises(CutoverError, match="the target does not answer"):
        run(step(tmp_path, "apply_ddl"), body, Terms(opens=True))
    assert "could not be recorded" in caplog.text
    assert not has_passed(Evidence.of("ward_ops", "run").events(), "apply_ddl")


def test_a_target_whose_disk_is_full_is_named_as_that(cluster: Cluster, conninfo: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "tablespace", 8) as place:
        owner = Path(f"/proc/{cluster.postmaster()}").stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
            try:
                with (
                    pytest.raises(StepFailed, match="the target's disk is full"),
                    target_session.session(conninfo, "public") as session,
                ):
                    session.execute("CREATE TABLE t (word text) TABLESPACE small")
                    session.execute("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            finally:
                connection.execute("DROP TABLE t")
                connection.execute("DROP TABLESPACE small")


# --- before a step -------------------------------------------------------------------------------------------------------


def test_the_downtime_does_not_begin_without_room_for_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "ward_ops.db"
    source.write_bytes(b"x" * (6 << 20))
    with small_disk(tmp_path / "small", 10) as small:
        for variable, place in (("WARD_OPS_BACKUPS", small), ("WARD_OPS_SECOND_COPY", tmp_path)):
            monkeypatch.setenv(variable, str(place))
        plan = load_plan("ward_ops")
        disk_space.require("check_target", plan, lambda: source)
        for name in ("stop_services", "take_backup"):
            with pytest.raises(Refused, match="not enough free disk") as caught:
                disk_space.require(name, plan, lambda: source)
            assert str(small) in caught.value.where and f"{12 << 20:,} bytes" in caught.value.expected
        source.write_bytes(b"x" * (4 << 20))
        disk_space.require("stop_services", plan, lambda: source)
        source.with_name("ward_ops.db-wal").write_bytes(b"x" * (4 << 20))
        with pytest.raises(Refused):
            disk_space.require("stop_services", plan, lambda: source)
        disk_space.require("rollback.stop_services", plan, lambda: source, must_run=True)


def test_a_file_system_that_can_hold_no_more_files_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 48) as disk:
        os.system(f"mount -o remount,nr_inodes=20 {disk}")
        monkeypatch.setenv("CUTOVER_EVIDENCE", str(disk))
        with pytest.raises(Refused, match="no more files"):
            disk_space.require("check_target", load_plan("ward_ops"), lambda: tmp_path)
