"""The steps of a cutover on a source with another name: preflight, fence, rollback."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck, Refused
from include.cutover.plan.file import load_plan
from include.cutover.source import backup, backup_manifest, fence
from include.cutover.steps import preflight, quiesce, rollback
from include.cutover.steps.rehearsal_step import harmless
from include.cutover.steps.step import Caller, Step
from tests.support.ends import FakeEnds
from tests.support.other_names import killed_writer
from tests.support.sqlite_clients import make_source

PLAN = "ward_ops"


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
    monkeypatch.setenv("WARD_OPS_SECOND_COPY", str(tmp_path / "second"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "ward.db", "wal")


@pytest.fixture
def alias(source: Path) -> Path:
    path = source.with_name("alias.db")
    path.hardlink_to(source)
    return path


def step_of(source: Path, name: str, *others: Path) -> Step:
    plan = load_plan(PLAN).model_copy(update={"source_other_names": others, "services": ()})
    return Step(PLAN, name, Caller(f"cutover_{PLAN}", "one", "lead"), FakeEnds(source), plan)


def test_preflight_blocks_until_the_plan_names_the_hard_link(source: Path, alias: Path) -> None:
    report = preflight.check_source(step_of(source, "check_source"))
    assert report.outcome == "failed"
    assert str(alias) in report.failure and "source_other_names in the plan" in report.failure
    with pytest.raises(AssertionError, match="no target"):  # the next thing that a passed check needs
        preflight.check_source(step_of(source, "check_source", alias))


def test_log_at_the_hard_link_blocks_preflight_assessment_and_fence(source: Path, alias: Path) -> None:
    killed_writer(alias)
    report = preflight.check_source(step_of(source, "check_source", alias))
    assert report.outcome == "failed" and "alias.db-wal holds" in report.failure
    with pytest.raises(CannotCheck, match=r"alias\.db-wal"):
        preflight.assess_source(step_of(source, "assess_source", alias))
    with pytest.raises(Refused, match=r"alias\.db-wal"):
        quiesce.fence_source(step_of(source, "fence_source", alias))
    assert not fence.status(source).raised


def test_rollback_links_the_hard_link_to_the_restored_file(source: Path, alias: Path, tmp_path: Path) -> None:
    quiesce.fence_source(step_of(source, "fence_source", alias))
    step = step_of(source, "rollback.restore_source", alias)
    manifest = backup.take(source, tmp_path / "backups", None, run_id="one", plan=PLAN)
    step.evidence.append("backup", **backup_manifest.facts(manifest))
    step.evidence.append("step.begin", step="take_backup")
    step.evidence.append("step.end", step="take_backup", outcome="passed")
    report = rollback.restore_source(step)
    assert f"linked to it: {alias}" in report.summary and report.warnings == []
    assert alias.samefile(source)
    with closing(sqlite3.connect(alias)) as connection, connection:
        connection.execute("INSERT INTO device (name) VALUES ('after')")
    with closing(sqlite3.connect(source)) as connection:
        assert connection.execute("SELECT count(*) FROM device").fetchone() == (4,)


def test_rollback_refuses_a_log_that_appeared_at_the_hard_link(source: Path, alias: Path, tmp_path: Path) -> None:
    quiesce.fence_source(step_of(source, "fence_source", alias))
    step = step_of(source, "rollback.restore_source", alias)
    manifest = backup.take(source, tmp_path / "backups", None, run_id="one", plan=PLAN)
    step.evidence.append("backup", **backup_manifest.facts(manifest))
    step.evidence.append("step.begin", step="take_backup")
    step.evidence.append("step.end", step="take_backup", outcome="passed")
    Path(f"{alias}-wal").write_bytes(b"rows")
    with pytest.raises(Refused, match=r"alias\.db-wal holds"):
        rollback.restore_source(step)
    assert alias.samefile(source) and fence.status(source).raised


def test_rehearsal_s_clone_has_no_other_names(source: Path, alias: Path, tmp_path: Path) -> None:
    assert harmless(step_of(source, "open_rehearsal", alias).plan, tmp_path).source_other_names == ()
