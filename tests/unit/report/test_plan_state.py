"""The state of a plan in words, and the command that prints it: run, step, application, and the next thing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.cutover.cli.main import main
from include.cutover.evidence import lease
from include.cutover.report.plan_state import PlanState, state_of_plan
from tests.support.recorded_runs import Run

PLAN, RUN = "ward_ops", "manual__2026-03-01"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CUTOVER_EVIDENCE", str(tmp_path / "evidence"))
    return Run(tmp_path / "evidence" / PLAN / RUN)


def state() -> PlanState:
    return state_of_plan(PLAN)


def stopped(run: Run) -> None:
    run.open()
    lease.acquire(PLAN, RUN, f"cutover_{PLAN}/{RUN}")
    run.append("step.begin", step="stop_services")
    run.append("services.stopped")
    run.append("step.end", step="stop_services", outcome="passed", summary="stopped: api")
    run.step("fence_source")
    run.step("take_backup")


def test_no_run(run: Run) -> None:
    found = state()
    assert not found.in_flight and found.application == "on SQLite: no run has changed it"
    assert found.do == ("Trigger cutover_ward_ops as the lead.",)


def test_run_that_has_stopped_nothing(run: Run) -> None:
    run.open()
    run.append("step.begin", 1, step="check_source")
    found = state()
    assert found.in_flight and found.run_id == RUN and "in flight since" in found.run
    assert found.at.startswith("check_source: it began at") and found.at.endswith("no end is recorded")
    assert found.application == "on SQLite: the run has stopped nothing"
    assert not any("rollback" in text for text in found.do), "a rollback of it is refused"


def test_run_in_the_copy(run: Run) -> None:
    stopped(run)
    run.append("step.begin", 1, step="copy.users")
    found = state()
    assert (
        found.application
        == "stopped by the run, and perhaps up again since a restart of its host; its data is in SQLite, which is fenced"
    )
    assert "Airflow continues cutover_ward_ops" in found.do[0]
    assert found.do[1] == "To go back: trigger rollback_ward_ops."
    assert f"--evidence {run.evidence.folder}" in found.do[2]


def test_open_gate_is_named(run: Run) -> None:
    stopped(run)
    run.append("gate.asked", gate="approve")
    assert state().do[0].startswith("Airflow asks approve")
    run.append("gate", gate="approve", answer="Go", by="lead", automatic=False)
    assert state().do[0].startswith("Airflow continues")


def test_configuration_that_names_postgresql(run: Run) -> None:
    stopped(run)
    run.append("decision", at="decide", outcome="go_on", why=[])
    run.step("switch_configuration")
    assert (
        state().application
        == "stopped by the run, and perhaps up again since a restart of its host; its configuration names PostgreSQL"
    )
    run.append("services.started", on="target")
    assert state().application == "on PostgreSQL"


def test_live_run_and_its_rollback(run: Run) -> None:
    stopped(run)
    run.append("decision", at="decide", outcome="go_on", why=[])
    run.step("switch_configuration")
    run.append("services.started", on="target")
    run.append("decision", at="decide_live", outcome="go_on", why=[])
    run.append("sealed", outcome="live", summary="live on PostgreSQL")
    found = state()
    assert not found.in_flight and found.application == "on PostgreSQL" and found.do[0] == "Follow aftercare_ward_ops."

    run.append("reopened", by="lead", reason="slow", holder="rollback_ward_ops/again")
    lease.take_over(PLAN, RUN, "rollback_ward_ops/again")
    found = state()
    assert found.in_flight and found.application == "on PostgreSQL", "nothing was stopped yet"
    run.append("step.begin", step="rollback.stop_services")
    run.append("services.stopped")
    run.append("step.end", step="rollback.stop_services", outcome="passed", summary="")
    found = state()
    assert (
        found.application == "stopped by the run, and perhaps up again since a restart of its host; it goes back to SQLite"
    )
    assert "rollback_ward_ops/again" in found.do[0] and "trigger rollback_ward_ops again" in found.do[1]
    run.step("rollback.keep_target")
    run.step("rollback.restore_source")
    assert "SQLite is restored" in state().application
    run.append("services.started", on="source")
    run.append("sealed", outcome="rolled_back", summary="")
    found = state()
    assert found.application == "on SQLite" and "incident_ward_ops" in found.do[0]
    run.append("incident.closed", by="lead", cause="c", fix="f", reference="r")
    assert state().do == ("Trigger cutover_ward_ops when the next window begins.",)


def test_interrupted_command_is_continued_by_nothing(run: Run) -> None:
    stopped(run)
    run.append("rollback.asked", by="root", reason="r", holder="break_glass/x")
    lease.take_over(PLAN, RUN, "break_glass/x")
    (only,) = state().do
    assert "Nothing continues it" in only and "python -m include.cutover rollback --plan ward_ops" in only


def test_incomplete_way_back_is_in_flight(run: Run) -> None:
    stopped(run)
    run.append("step.begin", step="rollback.stop_services")
    run.append("sealed", outcome="failed", summary="")
    found = state()
    assert found.in_flight and "Trigger rollback_ward_ops again" in found.do[1]
    assert found.application.startswith("stopped by the run")


def test_open_run_comes_before_a_later_refused_one(run: Run, tmp_path: Path) -> None:
    stopped(run)
    later = Run(run.evidence.folder.with_name("later"))
    later.clock = run.clock
    later.append("step.end", 5, step="open_run", outcome="refused", summary="another run is open")
    assert state().run_id == RUN


def test_damaged_evidence_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(run)
    file = run.evidence.folder / "events.jsonl"
    file.write_text(file.read_text().replace("stopped: api", "stopped: none"))
    found = state()
    assert found.in_flight and "the chain of events is broken" in found.run and found.application == "unknown"


def test_the_command_prints_words_or_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(run)
    assert main(["status", "--plan", PLAN]) == 1
    said = capsys.readouterr().out
    assert RUN in said and "application  stopped by the run" in said
    assert main(["status", "--plan", PLAN, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["plans"]
    assert found["run_id"] == RUN and found["in_flight"] is True
    run.append("sealed", outcome="live", summary="")
    assert main(["status"]) == 0
