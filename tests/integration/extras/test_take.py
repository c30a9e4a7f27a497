"""Extras beside the backup: whole and verified, or named as missing; and who is stopped by that."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.cutover import files
from include.cutover.errors import PlanInvalid
from include.cutover.evidence.record import Evidence
from include.cutover.extras import take
from include.cutover.extras.take import KeptExtra, preview_extras, take_extras
from include.cutover.places import ROOT
from include.cutover.plan.backups import Extras
from include.cutover.plan.file import load_plan, parse_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.row import Point
from include.cutover.runs.terms import Terms
from include.cutover.stack.postgres import free_port
from include.cutover.steps import decide as decide_steps
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps import take_backup as take_backup_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import Caller, Report, Step
from tests.support.ends import FakeEnds
from tests.support.killing import kill_at_every_step
from tests.support.redis_server import PASSWORD, running


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "first"))
    monkeypatch.setenv("WARD_OPS_SECOND_COPY", str(tmp_path / "second"))
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setattr(take, "PAUSE_SECONDS", 0)
    yield tmp_path / "first" / "ward_ops" / "extras-run", tmp_path / "second" / "ward_ops" / "extras-run"


def plan_with(**wanted: Any) -> Plan:
    return load_plan("ward_ops").model_copy(update={"extras": Extras.model_validate(wanted)})


def archive(*paths: Path, name: str = "configuration", required: bool = False) -> dict[str, Any]:
    return {"name": name, "paths": [str(path) for path in paths], "required": required}


def test_everything_lies_in_both_places_with_a_manifest(
    tree: Path, places: tuple[Path, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(tmp_path_factory.mktemp("redis")) as server:
        server.client.set("a", "b")
        redis = {"url": server.url, "password_env": "REDIS_PASSWORD"}
        plan = plan_with(redis=redis, archives=[archive(tree), archive(tree / ".env", name="secrets")])
        kept = take_extras(plan, "run", tmp_path / "ward_ops.db")
    assert [(item.name, item.whole, item.warning) for item in kept] == [
        ("redis", True, ""),
        ("configuration", True, ""),
        ("secrets", True, ""),
    ]
    assert (kept[0].details["keys"], kept[1].details["entries"]) == (1, 11)
    for place in places:
        names = sorted(path.name for path in place.iterdir())
        assert names == ["configuration.tar.gz", "manifest.json", "redis.rdb", "secrets.tar.gz"]
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        manifest = json.loads((place / "manifest.json").read_text())
        assert (manifest["plan"], manifest["run_id"]) == ("ward_ops", "run")
        for item in manifest["extras"]:
            path = place / Path(item["file"]).name
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (path.stat().st_size, files.digest(path)) == (item["bytes"], item["sha256"])
        assert PASSWORD not in (place / "manifest.json").read_text()


def test_second_attempt_keeps_whole_extras_and_makes_the_rest_again(
    tree: Path, places: tuple[Path, Path], tmp_path: Path
) -> None:
    plan = plan_with(archives=[archive(tree), archive(tree / "empty", name="other"), archive(tree / "late", name="late")])
    first = take_extras(plan, "run", tmp_path / "ward_ops.db")
    assert [item.whole for item in first] == [True, True, False]
    assert "the archive late is not complete" in first[2].warning and "No such file" in first[2].warning
    (places[1] / "other.tar.gz").write_bytes(b"damaged")
    (tree / "late").write_text("now it is there")
    stamp = (places[0] / "configuration.tar.gz").stat().st_mtime_ns
    second = take_extras(plan, "run", tmp_path / "ward_ops.db")
    assert [item.whole for item in second] == [True, True, True]
    assert (places[0] / "configuration.tar.gz").stat().st_mtime_ns == stamp
    assert files.digest(places[1] / "other.tar.gz") == files.digest(places[0] / "other.tar.gz") == second[1].sha256


def test_killed_at_any_step_the_next_attempt_has_everything(tmp_path: Path, places: tuple[Path, Path]) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".env").write_text("SECRET_KEY=hunter2\n")
    plan = plan_with(archives=[archive(tmp_path / "app")])

    def begin() -> None:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)

    def action() -> list[KeptExtra]:
        return take_extras(plan, "run", tmp_path / "ward_ops.db")

    for where in kill_at_every_step(begin, action, after=False):
        assert [item.warning for item in action()] == [""], where
        for place in places:
            assert sorted(path.name for path in place.iterdir()) == ["configuration.tar.gz", "manifest.json"], where


def test_plan_without_or_with_wrong_extras_is_read_or_refused() -> None:
    text = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    begin, end = text.index("extras:"), text.index("window:")

    def parsed(section: str) -> Plan:
        return parse_plan(text[:begin] + section + text[end:], "a plan", {})

    assert not parsed("").extras.wanted
    for section, fault in (
        ("extras: {redis: {url: 'redis://:hunter2@127.0.0.1'}}\n", "extras.redis.url"),
        ("extras: {archives: [{name: redis, paths: [/etc]}]}\n", "the name redis is taken"),
        ("extras: {archives: [{name: a, paths: []}]}\n", "extras.archives.0.paths"),
        ("extras: {archives: [{name: a/b, paths: [/etc]}]}\n", "extras.archives.0.name"),
    ):
        with pytest.raises(PlanInvalid, match=fault):
            parsed(section)


def step_of(tmp_path: Path, plan: Plan, name: str = "snapshot_extras") -> Step:
    step = Step("ward_ops", name, Caller("cutover_ward_ops", "run", "lead"), FakeEnds(tmp_path / "ward_ops.db"))
    step.plan = plan
    return step


def snapshot(step: Step) -> Report:
    if not step.evidence.exists:
        step.evidence.append("run.opened", run_id="run", plan="ward_ops")
    return run(step, take_backup_steps.snapshot_extras, Terms(opens=True))


@pytest.mark.usefixtures("places")
def test_missing_extra_is_a_warning_and_a_required_one_stops_the_run(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="REDIS WAS NOT TRIED: the client is not installed")
    absent = {"url": f"redis://127.0.0.1:{free_port()}"}
    optional = step_of(tmp_path, plan_with(redis=absent, archives=[archive(tree)]))
    found = snapshot(optional)
    assert found.outcome == "passed" and found.summary.startswith("1 of 2 extras kept")
    (warning,) = found.warnings
    assert warning.startswith("the snapshot of Redis was not kept: Redis at 127.0.0.1") and "does not answer" in warning
    assert "snapshot_extras" not in runbook.required(optional.plan, Point.GO_LIVE)
    recorded = optional.evidence.last("extras")
    assert recorded is not None and [item["name"] for item in recorded["kept"]] == ["redis", "configuration"]

    required = step_of(tmp_path, plan_with(redis={**absent, "required": True}, archives=[archive(tree)]))
    found = snapshot(required)
    assert found.outcome == "failed"
    assert [(check.name, check.outcome) for check in found.checks] == [
        ("extras_redis", "failed"),
        ("extras_configuration", "passed"),
    ]
    assert "snapshot_extras" in runbook.required(required.plan, Point.GO_LIVE)


def test_extra_that_cannot_be_kept_is_found_before_anything_stops(
    tree: Path, places: tuple[Path, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A required one fails preflight, where nothing was touched; another gives a warning."""
    (tmp_path / "ward_ops.db").write_bytes(b"x")
    with running(tmp_path_factory.mktemp("redis")) as server:
        redis = {"url": server.url, "password_env": "REDIS_PASSWORD", "required": True}
        plan = plan_with(redis=redis, archives=[archive(tree), archive(tmp_path / "absent", name="other")])
        found = [(item.name, item.preview.outcome) for item in preview_extras(plan)]
        assert found == [("redis", "passed"), ("configuration", "passed"), ("other", "failed")]
        assert server.client.info("persistence")["rdb_bgsave_in_progress"] == 0 and not places[0].exists()
    plan = plan.model_copy(update={"services": (), "smoke_tests": None, "configuration": None})
    step = step_of(tmp_path, plan, "check_places")
    step.evidence.append("run.opened", run_id="run", plan="ward_ops")
    report = run(step, preflight_steps.check_places, Terms(opens=True))
    assert report.outcome == "failed"
    assert [check.name for check in report.checks if check.outcome == "failed"] == ["extras_redis"]
    assert list(report.warnings) == [f"the archive other will not be kept: {tmp_path}/absent cannot be read"]


@pytest.mark.usefixtures("places")
def test_required_archive_must_be_complete(tree: Path, tmp_path: Path) -> None:
    step = step_of(tmp_path, plan_with(archives=[archive(tree, tmp_path / "absent", required=True)]))
    found = snapshot(step)
    assert found.outcome == "failed" and "absent: No such file" in found.checks[0].found


@pytest.mark.usefixtures("places")
def test_extras_of_unknown_state_are_a_warning_at_the_gate(tree: Path, tmp_path: Path) -> None:
    """Their task was killed, or a person marked it as done: a warning, unless the plan requires them."""
    plan = plan_with(archives=[archive(tree)])
    evidence = Evidence.of("ward_ops", "run")
    evidence.append("run.opened", run_id="run", plan="ward_ops")
    evidence.append("step.begin", step="snapshot_extras")

    def decided() -> Report:
        return run(step_of(tmp_path, plan, "decide"), decide_steps.decide, Terms(opens=True), {"at": "decide"})

    assert list(decided().warnings) == ["the plan's extras may not be kept: snapshot_extras did not pass"]
    snapshot(step_of(tmp_path, plan))
    assert list(decided().warnings) == []
    assert not plan_with().extras.wanted
