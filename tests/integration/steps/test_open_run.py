"""The right and the time to open a run; by the bodies of the steps alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from examples.ward_ops.generate import generate
from include.cutover.cli import break_glass
from include.cutover.errors import CutoverError, Refused
from include.cutover.evidence import source_lease
from include.cutover.evidence.record import Evidence
from include.cutover.runs.terms import Terms
from include.cutover.source import fence
from include.cutover.steps import announce as announce_steps
from include.cutover.steps import close_run, sqlite_again
from include.cutover.steps import open_run as steps_open_run
from include.cutover.steps import preflight as preflight_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import Caller, Report, Step
from tests.support.ends import FakeEnds
from tests.support.incidents import close_incidents

FORM: dict[str, Any] = {"approve": "ask", "reason": "a test", "notify": False}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with apsw.Connection(str(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return tmp_path / "app.db"


def step_of(source: Path, run_id: str, actor: str | None = "lead", **form: Any) -> Step:
    return Step("ward_ops", "open_run", Caller("cutover_ward_ops", run_id, actor, {**FORM, **form}), FakeEnds(source))


def open_run(source: Path, run_id: str, actor: str | None = "lead", **form: Any) -> Evidence:
    step = step_of(source, run_id, actor, **form)
    assert run(step, steps_open_run.open_run, Terms(opens=True)).outcome == "passed"
    return step.evidence


def test_the_lead_opens_a_run_once(source: Path) -> None:
    evidence = open_run(source, "one")
    open_run(source, "one")
    assert [event["event"] for event in evidence.events()].count("run.opened") == 1
    held = source_lease.read(source)
    assert held is not None and held.run_id == "one"


@pytest.mark.parametrize("actor", ["observer", "communicator", "nobody", "", None])
def test_nobody_else_opens_one(source: Path, actor: str | None) -> None:
    with pytest.raises(Refused, match="only the lead or a deputy"):
        open_run(source, "one", actor)
    assert Evidence.of("ward_ops", "one").last("run.opened") is None
    assert source_lease.read(source) is None


def test_a_second_run_is_refused_and_told_who_is_at_work(source: Path) -> None:
    open_run(source, "one")
    with pytest.raises(Refused, match=r"another run of this plan is open.*found cutover_ward_ops/one"):
        open_run(source, "two")


def test_a_run_of_other_evidence_on_the_same_file_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(source, "one")
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(tmp_path / "elsewhere"))
    with pytest.raises(Refused, match=r"another run uses this database.*found one of the plan ward_ops"):
        open_run(source, "two")
    newest = Evidence.of("ward_ops", "two").step("open_run")
    assert newest is not None and newest["outcome"] == "refused"


def test_a_run_that_is_called_off_lets_the_source_go(source: Path) -> None:
    open_run(source, "one")
    step = step_of(source, "one")
    step.name = "close_run"
    with pytest.raises(CutoverError, match="called off before anything was stopped"):
        run(step, close_run.close, Terms(closes=True))
    assert source_lease.read(source) is None
    open_run(source, "two")


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("live", "is live on the target already"),
        ("failed", r"was not completed.*trigger rollback_ward_ops again"),
        ("rolled_back", "incident of an earlier run is not closed"),
        ("released", "incident of an earlier run is not closed"),
        ("abandoned", ""),
    ],
)
def test_how_the_last_run_ended_decides_about_the_next(source: Path, outcome: str, told: str) -> None:
    evidence = open_run(source, "one")
    evidence.append("sealed", outcome=outcome)
    if told:
        with pytest.raises(Refused, match=told):
            open_run(source, "two")
    else:
        open_run(source, "two")


def test_automatic_approval_is_a_matter_of_the_plan(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="the plan does not allow automatic approval"):
        open_run(source, "one", approve="auto")
    monkeypatch.setenv("WARD_OPS_ALLOW_AUTO_APPROVAL", "true")
    open_run(source, "two", approve="auto")


def test_a_plan_that_changes_while_the_run_is_open_stops_the_next_step(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = open_run(source, "one")
    monkeypatch.setenv("WARD_OPS_URL", "http://127.0.0.1:1")
    step = step_of(source, "one")
    step.name = "announce_start"
    with pytest.raises(Refused, match=r"found changed: plan.*goes back by itself"):
        run(step, announce_steps.announce, Terms(), {"notice": "start"})
    ended = evidence.step("announce_start")
    assert ended is not None and ended["outcome"] == "refused"
    assert run(step, announce_steps.announce, Terms(way_back=True), {"notice": "start"}).outcome == "passed"


def test_a_plan_that_breaks_counts_as_changed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_run(source, "one")
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "ward_ops.yaml").write_text("name: [")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path / "plans"))
    assert step_of(source, "one").changed == ["plan"]


def test_a_run_that_was_brought_back_by_hand_is_closed_once_and_acts_no_more(source: Path) -> None:
    evidence = open_run(source, "one")
    fence.raise_fence(source, run_id="one")
    with pytest.raises(Refused, match="the database is still fenced"):
        break_glass.close_by_hand(evidence.folder, reason="restored by hand", by="root")
    fence.lift(source)
    assert break_glass.close_by_hand(evidence.folder, reason="restored by hand", by="root") == "one"
    assert evidence.sealed is not None and evidence.sealed["outcome"] == "rolled_back"
    assert evidence.last("target.pending") is not None
    step = step_of(source, "one")
    step.name = "announce_start"
    with pytest.raises(Refused, match="this run is closed"):
        run(step, announce_steps.announce, Terms(), {"notice": "start"})
    with pytest.raises(Refused, match="closed already"):
        break_glass.close_by_hand(evidence.folder, reason="again", by="root")
    assert close_incidents("ward_ops") == ["one"]
    open_run(source, "two")


@pytest.mark.parametrize("outcome", ["failed", "rolled_back", "released", "abandoned", "live"])
def test_a_step_of_a_closed_run_runs_again_only_where_the_way_back_was_not_complete(source: Path, outcome: str) -> None:
    evidence = open_run(source, "one")
    fence.raise_fence(source, run_id="one")
    evidence.append("sealed", outcome=outcome, summary="")
    step = step_of(source, "one")
    step.name = "release.lift_fence"
    step.plan = step.plan.model_copy(update={"services": ()})
    if outcome == "failed":
        assert run(step, sqlite_again.lift_fence, Terms(way_back=True)).outcome == "passed"
        assert evidence.sealed is None and fence.status(source).raised is False
        step.name = "announce_start"  # the way on stays closed once it is sealed again
        evidence.append("sealed", outcome="failed", summary="")
    with pytest.raises(Refused, match="this run is closed"):
        run(step, announce_steps.announce, Terms(way_back=outcome != "failed"), {"notice": "start"})


# --- the schema of the source -------------------------------------------------------------------------------------------


def test_a_schema_that_drifted_since_the_last_run_is_told_to_the_lead(
    tmp_path: Path, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
    database = tmp_path / "ward_ops.db"
    generate(database, pings=10)

    def look(run_id: str) -> tuple[Report, Evidence]:
        step = Step("ward_ops", "check_source", Caller("cutover_ward_ops", run_id, "lead"), FakeEnds(database, conninfo))
        return run(step, preflight_steps.check_source, Terms(opens=True)), step.evidence

    for run_id in ("one", "two"):
        found, evidence = look(run_id)
        assert (found.outcome, list(found.warnings)) == ("passed", [])
        recorded = evidence.last("source.schema")
        assert recorded is not None and recorded["compared_with"] == {"one": None, "two": "one"}[run_id]
        assert recorded["objects"]["column users.email"] == "VARCHAR(100) NOT NULL"
    with apsw.Connection(str(database)) as connection:
        connection.execute("ALTER TABLE users ADD COLUMN phone TEXT")
        connection.execute("CREATE INDEX late ON users (phone)")
    found, evidence = look("three")
    (warning,) = found.warnings
    assert "drifted since the run two of 20" in warning and "added column users.phone, index late." in warning
    end = evidence.step("check_source")
    assert end is not None and end["warnings"] == [warning]
    assert [check.name for check in found.checks if check.outcome == "failed"] == ["source_columns_unknown"]


@pytest.mark.parametrize("outcome", ["abandoned", "rolled_back"])
def test_a_run_that_waited_in_the_queue_does_not_start_unasked(source: Path, outcome: str) -> None:
    evidence = open_run(source, "one")
    waiting = step_of(source, "two")
    waiting.caller = replace(waiting.caller, triggered_at=datetime.now(UTC))
    evidence.append("sealed", outcome=outcome)
    with pytest.raises(Refused, match=rf"triggered before another one had ended.*one ended as {outcome} later"):
        run(waiting, steps_open_run.open_run, Terms(opens=True))
    close_incidents("ward_ops")
    again = step_of(source, "three")
    again.caller = replace(again.caller, triggered_at=datetime.now(UTC))
    assert run(again, steps_open_run.open_run, Terms(opens=True)).outcome == "passed"
