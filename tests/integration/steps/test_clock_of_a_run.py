"""The clock of a run, step by step: until when it goes on, which notices people get, and when nothing is stopped yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from include.cutover.checks import Check
from include.cutover.copying import tables as copying
from include.cutover.errors import Refused
from include.cutover.evidence import lease
from include.cutover.evidence.record import Evidence
from include.cutover.people import notices
from include.cutover.plan.file import load_plan
from include.cutover.runs import clock as clocks
from include.cutover.runs import rehearsals, runbook, schedule
from include.cutover.runs.clock import Measured, OutOfTime
from include.cutover.runs.row import Point
from include.cutover.runs.terms import Terms
from include.cutover.runs.verdict import has_passed
from include.cutover.source.cloning import live_schema
from include.cutover.source.schema import schema_fingerprint, schema_objects
from include.cutover.steps import announce as announce_steps
from include.cutover.steps import copy_tables, open_run
from include.cutover.steps import decide as decide_steps
from include.cutover.steps import notices as notice_steps
from include.cutover.steps import wait_for_window as wait_for_window_steps
from include.cutover.steps.running import run
from include.cutover.steps.step import Caller, Report, Step
from include.cutover.tasks import gates, operators
from tests.support.ends import APPLICATION_URL, UNREACHABLE, FakeEnds

PLAN = "ward_ops"
NOW = Terms(in_time=True)
FORM: dict[str, Any] = {"approve": "ask", "reason": "a test", "notify": True, "window_start": None, "scheduled": None}


@pytest.fixture(autouse=True)
def _two_channels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notice_steps, "names", lambda plan: ["slack", "lead"])
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    yield


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEnds:
    monkeypatch.setenv("WARD_OPS_BACKUPS", str(tmp_path / "backups"))
    monkeypatch.setenv("WARD_OPS_ROOT", str(tmp_path))
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite://\n")
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return FakeEnds(tmp_path / "app.db", UNREACHABLE, url=APPLICATION_URL, channels=("slack", "lead"))


def step_of(ends: FakeEnds, name: str, run_id: str = "one", actor: str | None = "lead", **form: Any) -> Step:
    return Step(PLAN, name, Caller(f"cutover_{PLAN}", run_id, actor, {**FORM, **form}), ends)


def begins(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def opened(ends: FakeEnds, minutes: float = 0, **form: Any) -> Evidence:
    """A run whose window begins in so many minutes."""
    step = step_of(ends, "open_run", **{"window_start": begins(minutes), **form})
    assert run(step, open_run.open_run, Terms(opens=True)).outcome == "passed"
    return step.evidence


def passed(evidence: Evidence, *steps: str) -> None:
    for step in steps:
        evidence.append("step.begin", step=step)
        evidence.append("step.end", step=step, outcome="passed")


def late(evidence: Evidence) -> None:
    """The window began long ago: its deadline is over."""
    clock = clocks.read(evidence.events())
    assert clock is not None
    hour = timedelta(hours=1)
    fields = clock.as_fields()
    for name in ("freeze", "start", "end", "deadline"):
        fields[name] = (getattr(clock, name) - hour).isoformat()
    evidence.append(clocks.EVENT, **fields)


# --- opening ------------------------------------------------------------------------------------------------------------


def test_a_run_records_its_clock_and_what_the_clock_will_say(ends: FakeEnds) -> None:
    evidence = opened(ends)
    clock = clocks.read(evidence.events())
    assert clock is not None and clock.end - clock.deadline == timedelta(minutes=7.5)
    run(step_of(ends, "open_run"), open_run.open_run, Terms(opens=True))  # a second try
    assert [event["event"] for event in evidence.events()].count("clock") == 1
    found = notices.outbox(evidence.events())
    assert {name: notice.ready for name, notice in found.items()} == {
        "delay.half": clock.start + timedelta(minutes=30),
        "delay.three_quarters": clock.start + timedelta(minutes=45),
        "deadline": clock.deadline,
    }
    assert all(notice.message.lead and notice.message.while_open for notice in found.values())
    assert ends.boxes["slack"].got == []


def test_a_rehearsal_s_figures_make_the_clock(ends: FakeEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsals, "measured", lambda plan: Measured("rehearsal", 60.0, {"stop_services": 50 * 60.0}))
    clock = clocks.read(opened(ends).events())
    assert clock is not None and clock.measured_by == "rehearsal"
    assert clock.end - clock.deadline == timedelta(seconds=90)


def test_a_window_that_is_over_is_not_opened(ends: FakeEnds) -> None:
    with pytest.raises(Refused, match="the window ends before the run can be live"):
        opened(ends, -55)
    assert lease.read(PLAN) is None
    assert Evidence.of(PLAN, "one").last("run.opened") is None


# --- in time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stop_services", "copy.users", "switch_configuration", "start_services"])
def test_past_the_deadline_no_point_of_no_return_is_crossed(ends: FakeEnds, name: str) -> None:
    evidence = opened(ends)
    done: list[str] = []

    def body(step: Step) -> Report:
        done.append(step.name)
        return Report("done")

    assert run(step_of(ends, name), body, NOW).outcome == "passed"
    late(evidence)
    with pytest.raises(OutOfTime, match="there is no time left to go live"):
        run(step_of(ends, name), body, NOW)
    assert done == [name]
    recorded = evidence.last("late")
    assert recorded is not None and recorded["step"] == name and "the deadline was" in recorded["reason"]


def test_the_steps_before_the_points_of_no_return_are_marked() -> None:
    assert {row.name: row.in_time for row in runbook.way("go_live")} == {
        "switch_configuration": True,
        "start_services": True,
        "smoke_test_application": False,
    }


def test_a_long_copy_ends_when_the_rest_does_not_fit_any_more(ends: FakeEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"copy.users": 3000.0, "build_keys_and_indexes": 1200.0}
    monkeypatch.setattr(rehearsals, "measured", lambda plan: Measured("rehearsal", 60.0, rest))
    evidence = opened(ends)
    monkeypatch.setattr(Step, "decided", SimpleNamespace(file=ends.source))
    monkeypatch.setattr(Step, "epoch", 1)
    seen: list[int] = []

    def copy_table(*_: Any, on_progress: Callable[[Any], None], **__: Any) -> None:
        for number in range(3):
            seen.append(number)
            if number == 1:  # it has taken long, and less than 20 minutes are left
                start = datetime.now(UTC) - timedelta(minutes=40)
                clock = clocks.Clock.of(load_plan(PLAN).window, start, Measured("rehearsal", 60.0, rest))
                clock_in_use.update(clock.as_fields())
            on_progress(f"chunk {number}")

    clock_in_use: dict[str, Any] = {}
    known = clocks.Clock.require_in_time
    monkeypatch.setattr(
        clocks.Clock,
        "require_in_time",
        lambda self, step, now=None, rest_from=None: known(
            clocks.Clock.from_event(clock_in_use) if clock_in_use else self, step, now, rest_from=rest_from
        ),
    )
    monkeypatch.setattr(copying, "copy_table", copy_table)
    with pytest.raises(OutOfTime, match=r"the rest takes 20\.0 minutes, as rehearsed by rehearsal"):
        run(step_of(ends, "copy.users"), copy_tables.copy, NOW, {"table": "users"})
    assert seen == [0, 1]
    assert evidence.last("late", step="copy.users") is not None


@pytest.mark.parametrize(("touched", "outcome"), [(False, "abandon"), (True, "rollback")])
def test_the_run_goes_back_and_says_why(ends: FakeEnds, touched: bool, outcome: str) -> None:
    evidence = opened(ends)
    evidence.append("gate", gate="go_no_go", answer="Go", by="lead", automatic=False)
    if touched:
        passed(evidence, "stop_services", "fence_source", "take_backup")
    late(evidence)
    with pytest.raises(OutOfTime):
        run(step_of(ends, "copy.users"), copy_tables.copy, NOW, {"table": "users"})
    decided = run(step_of(ends, "decide"), decide_steps.decide, Terms(way_back=True, course=()), {"at": "decide"})
    assert decided.figures["outcome"] == outcome
    assert decided.figures["why"][0].startswith("there is no time left to go live: the deadline was ")
    assert ends.boxes["slack"].subjects == ends.boxes["lead"].subjects == ["no time left to go live on PostgreSQL"]
    assert "the deadline was" in ends.boxes["slack"].got[0][1] and "it goes back." in ends.boxes["slack"].got[0][1]


def test_a_run_that_is_live_stays_live_past_the_deadline(ends: FakeEnds) -> None:
    evidence = opened(ends)
    for gate in ("go_no_go", "approve"):
        evidence.append("gate", gate=gate, answer="Go", by="lead", automatic=False)
    step = step_of(ends, "decide_live")
    evidence.append("decision", at="decide", outcome="go_on", why=["a test"])
    passed(evidence, *runbook.required(step.plan, Point.STAY_LIVE))
    late(evidence)
    decided = run(step, decide_steps.decide, Terms(way_back=True, course=()), {"at": "decide_live"})
    assert decided.figures["outcome"] == "go_on"


# --- gates --------------------------------------------------------------------------------------------------------------


def context_of(ends: FakeEnds, **form: Any) -> dict[str, Any]:
    return {
        "dag_run": SimpleNamespace(
            dag_id=f"cutover_{PLAN}", run_id="one", triggering_user_name="lead", run_after=datetime.now(UTC)
        ),
        "ti": SimpleNamespace(try_number=1, log_url=""),
        "task_instance": SimpleNamespace(id="x"),
        "params": {**FORM, **form},
    }


@pytest.fixture
def airflow_ends(ends: FakeEnds, monkeypatch: pytest.MonkeyPatch) -> FakeEnds:
    monkeypatch.setattr(operators, "AirflowEnds", lambda: ends)
    return ends


def answer(user: str = "lead") -> dict[str, Any]:
    return {
        "chosen_options": ["Go"],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": user, "name": user},
    }


def test_a_go_that_comes_past_the_deadline_does_not_count(airflow_ends: FakeEnds) -> None:
    gate = gates.Gate(task_id="go_no_go", plan=load_plan(PLAN), gate="go_no_go", question="Now?")
    evidence = opened(airflow_ends)
    late(evidence)
    with pytest.raises(AirflowFailException, match="no-go, there is no time left: the deadline was"):
        gate.execute_complete(context_of(airflow_ends), answer())
    recorded = evidence.last("gate")
    assert recorded is not None and recorded["answer"] == "No-go" and recorded["by"] == "lead"
    step = step_of(airflow_ends, "decide")
    decided = run(step, decide_steps.decide, Terms(way_back=True, course=()), {"at": "decide"})
    assert decided.figures["outcome"] == "abandon"
    assert "the gate go_no_go was answered too late by lead" in decided.figures["why"]


def test_a_go_in_time_counts_and_nobody_is_asked_beyond_the_deadline(
    airflow_ends: FakeEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gates.Gate(task_id="go_no_go", plan=load_plan(PLAN), gate="go_no_go", question="Now?")
    evidence = opened(airflow_ends, -45)  # 7.5 minutes are left, and the plan gives 15 for an answer
    monkeypatch.setattr(HITLOperator, "execute", lambda self, context: None)
    gate.execute(context_of(airflow_ends))
    assert timedelta(minutes=7) < gate.response_timeout < timedelta(minutes=7.5)
    assert "A run that is not live by" in gate.body and "(in 7 min" in gate.body
    assert gate.execute_complete(context_of(airflow_ends), answer())["answer"] == "Go"
    late(evidence)
    with pytest.raises(AirflowFailException, match="no time left"):
        gate.execute(context_of(airflow_ends))


# --- the window ---------------------------------------------------------------------------------------------------------


def looked_at(ends: FakeEnds, evidence: Evidence) -> None:
    with live_schema(ends.source, ends.source.parent) as connection:
        found = {"fingerprint": schema_fingerprint(connection), "objects": schema_objects(connection)}
    evidence.append("source.schema", **found)
    evidence.append("gate", gate="go_no_go", answer="Go", by="lead", automatic=False)


WAIT = operators.WindowOperator(
    task_id="wait_for_window", plan=PLAN, body=wait_for_window_steps.wait_for_window, terms=Terms(gate="go_no_go")
)


def test_it_waits_for_the_window_without_a_worker_and_tells_the_freeze_once(airflow_ends: FakeEnds) -> None:
    evidence = opened(airflow_ends, 15.005)
    clock = clocks.read(evidence.events())
    assert clock is not None
    run(step_of(airflow_ends, "announce_start"), announce_steps.announce, Terms(), {"notice": "start"})
    assert airflow_ends.boxes["slack"].subjects == ["migration to PostgreSQL begins"]
    assert f"Change freeze for Ward OPS from {clock.freeze:%Y-%m-%d %H:%M} UTC" in airflow_ends.boxes["slack"].got[0][1]
    looked_at(airflow_ends, evidence)
    while datetime.now(UTC) < clock.freeze:
        pass
    for _ in range(2):
        with pytest.raises(AirflowRescheduleException) as caught:
            WAIT.execute(context_of(airflow_ends))
        wait = caught.value.reschedule_date - datetime.now(UTC)
        assert timedelta(minutes=4.9) < wait <= timedelta(minutes=5), "it looks now and then whether it still should"
    assert airflow_ends.boxes["slack"].subjects == [
        "migration to PostgreSQL begins",
        "change freeze before the migration to PostgreSQL",
    ]
    with pytest.raises(Refused, match="the window has not begun"):
        run(step_of(airflow_ends, "wait_for_window"), wait_for_window_steps.wait_for_window, Terms(gate="go_no_go"))


def test_a_window_that_has_begun_is_passed_at_once(airflow_ends: FakeEnds) -> None:
    evidence = opened(airflow_ends, window_start=None)
    looked_at(airflow_ends, evidence)
    WAIT.execute(context_of(airflow_ends))
    assert has_passed(evidence.events(), "wait_for_window")


def test_who_waits_does_not_wait_for_a_run_that_is_over(airflow_ends: FakeEnds) -> None:
    evidence = opened(airflow_ends, 60)
    looked_at(airflow_ends, evidence)
    lease.take_over(PLAN, "one", "rollback_ward_ops/two")
    with pytest.raises(AirflowFailException, match="no longer holds the lease"):
        WAIT.execute(context_of(airflow_ends))


@pytest.mark.parametrize("mode", ["delete", "wal", "wal and nobody has it open"])
def test_a_schema_that_changed_after_preflight_is_refused(airflow_ends: FakeEnds, mode: str) -> None:
    with closing(sqlite3.connect(airflow_ends.source)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode.split()[0]}")
        evidence = opened(airflow_ends)
        looked_at(airflow_ends, evidence)
        with connection:
            connection.execute("INSERT INTO t VALUES (1)")
        WAIT.execute(context_of(airflow_ends))
        with connection:
            connection.execute("ALTER TABLE t ADD COLUMN late TEXT")
        if "nobody" in mode:
            connection.close()
        before = sorted(item.name for item in airflow_ends.source.parent.glob("app.db*"))
        with pytest.raises(AirflowFailException, match=r"schema has changed since preflight.*added column t\.late"):
            WAIT.execute(context_of(airflow_ends))
        assert sorted(item.name for item in airflow_ends.source.parent.glob("app.db*")) == before
    assert not has_passed(evidence.events(), "wait_for_window")


# --- a forged schedule --------------------------------------------------------------------------------------------------


def test_a_form_that_names_a_schedule_proves_nothing(ends: FakeEnds) -> None:
    plan = load_plan(PLAN)
    start = datetime.now(UTC) + timedelta(minutes=10)
    record = schedule.open_schedule(
        plan, "s1", actor="lead", reason="the night", approve="ask", notify=True, start=start
    ).last(schedule.OPENED)
    assert record is not None
    attempts = [
        ("one", "observer", "s1"),  # another person, another run
        ("one", "lead", "s1"),  # the right person, another run
        ("one", None, "s1"),
        (record["cutover"], "observer", "s1"),  # even with the id that nobody can guess
        (record["cutover"], None, "s2"),
        ("one", None, "../../../x"),
    ]
    for run_id, actor, name in attempts:
        step = step_of(ends, "open_run", run_id, actor, scheduled=name)
        with pytest.raises(Refused, match="was not scheduled by the schedule that it names"):
            run(step, open_run.open_run, Terms(opens=True))
    assert lease.read(PLAN) is None
    step = step_of(ends, "open_run", record["cutover"], None, scheduled="s1", window_start=start.isoformat())
    run(step, open_run.open_run, Terms(opens=True))
    assert (step.evidence.last("run.opened") or {})["actor"] == "lead"


def test_the_reports_of_steps_are_unchanged_by_a_channel_that_raises(ends: FakeEnds) -> None:
    ends.boxes["slack"].error = RuntimeError("no")
    opened(ends)
    done = run(step_of(ends, "announce_start"), announce_steps.announce, Terms(), {"notice": "start"})
    assert done.outcome == "passed" and done.summary.endswith("not sent, missing: slack")
    failed = run(step_of(ends, "check"), lambda _: Report("bad", {}, [Check("c", "C", "failed", "", "", "", "")]), Terms())
    assert failed.outcome == "failed"
