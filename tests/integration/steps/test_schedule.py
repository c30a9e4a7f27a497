"""A cutover that is announced now and begins later: told once, begun as announced, or called off with a word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apsw
import pytest

from include.cutover.errors import CutoverError, Refused, StepFailed
from include.cutover.evidence.record import Evidence, runs
from include.cutover.people import delivery, notices, outbox_files
from include.cutover.plan.file import load_plan
from include.cutover.runs import schedule
from include.cutover.runs.terms import Terms
from include.cutover.steps import announce as announce_steps
from include.cutover.steps import edit_notice, open_run, send_pending
from include.cutover.steps import notices as notice_steps
from include.cutover.steps import schedule as schedule_steps
from include.cutover.steps.call import Call, NotNeeded, NotYet
from include.cutover.steps.running import run
from include.cutover.steps.step import Caller, Step
from tests.support.ends import FakeEnds

PLAN = "ward_ops"
FORM: dict[str, Any] = {"action": "schedule", "reason": "the night", "approve": "ask", "notify": True}


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEnds:
    monkeypatch.setattr(notice_steps, "names", lambda plan: ["slack", "mail"])
    with apsw.Connection(str(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    return FakeEnds(tmp_path / "app.db", channels=("slack", "mail"))


def call(ends: FakeEnds, run_id: str = "s1", actor: str | None = "lead", minutes: float | None = 60, **form: Any) -> Call:
    start = None if minutes is None else (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    return Call(PLAN, Caller(f"schedule_{PLAN}", run_id, actor, {**FORM, "window_start": start, **form}), ends)


def open_cutover(ends: FakeEnds, run_id: str, form: dict[str, Any], actor: str | None = "lead") -> Step:
    step = Step(PLAN, "open_run", Caller(f"cutover_{PLAN}", run_id, actor, form), ends)
    run(step, open_run.open_run, Terms(opens=True))
    return step


def test_it_is_announced_at_once_waits_and_begins_as_announced(ends: FakeEnds) -> None:
    scheduled = call(ends, minutes=60)
    schedule_steps.open_schedule(scheduled)
    schedule_steps.open_schedule(scheduled)  # a second try
    assert ends.boxes["slack"].subjects == ["migration to PostgreSQL begins"]
    start = datetime.fromisoformat(schedule_steps.opened_by(scheduled)["window_start"])
    freeze = start - timedelta(minutes=15)
    assert f"begins at {start:%Y-%m-%d %H:%M} UTC" in ends.boxes["slack"].got[0][1]
    assert f"Change freeze for Ward OPS from {freeze:%Y-%m-%d %H:%M} UTC" in ends.boxes["slack"].got[0][1]
    with pytest.raises(NotYet) as later:
        schedule_steps.wait_for_freeze(scheduled)
    assert later.value.until == freeze
    with pytest.raises(Refused, match="the freeze has not begun"):
        schedule_steps.begin(scheduled)  # somebody marked the wait as success
    assert runs(PLAN) == [], "a schedule is no run"

    soon = call(ends, "s2", minutes=10)
    with pytest.raises(Refused, match=r"another cutover of this plan is scheduled.*s1"):
        schedule_steps.open_schedule(soon)


@pytest.mark.parametrize("text", ["tomorrow", "0001-01-01T00:00+14:00", "9999-12-31T23:00-12:00", "2026-03-01"])
def test_start_that_cannot_be_meant_opens_nothing(ends: FakeEnds, text: str) -> None:
    with pytest.raises(Refused, match=r"window_start: .*such as \d+-03-01T22:00\+04:00"):
        schedule_steps.open_schedule(call(ends, window_start=text))
    with pytest.raises(Refused, match="window_start: "):
        open_cutover(ends, "r1", {**FORM, "window_start": text, "scheduled": None})
    assert all(run.last("run.opened") is None for run in runs(PLAN)) and ends.boxes["slack"].got == []


def test_start_without_an_offset_is_in_the_plans_time_zone_and_the_report_says_so(
    ends: FakeEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_plan(PLAN)
    plan = data.model_copy(update={"window": data.window.model_copy(update={"time_zone": "Asia/Tbilisi"})})
    for module in (schedule_steps, open_run):
        monkeypatch.setattr(module, "load_plan", lambda name: plan)
    there = datetime.now(ZoneInfo("Asia/Tbilisi")).replace(microsecond=0, tzinfo=None) + timedelta(hours=1)
    said = schedule_steps.open_schedule(call(ends, window_start=there.isoformat()))
    start = there - timedelta(hours=4)
    assert f"has no offset and is Asia/Tbilisi time: {start:%Y-%m-%d %H:%M} UTC" in said
    step = open_cutover(ends, "r1", {**FORM, "window_start": there.isoformat(), "scheduled": None})
    opened, ended = step.evidence.last("run.opened"), step.evidence.step("open_run")
    assert opened is not None and opened["window_start"] == f"{start.isoformat()}+00:00"
    assert ended is not None and "has no offset and is Asia/Tbilisi time" in ended["summary"]


def test_a_cutover_scheduled_long_into_the_freeze_has_time_to_open(ends: FakeEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled = call(ends, minutes=1)  # the freeze began 14 minutes ago
    schedule_steps.open_schedule(scheduled)
    with pytest.raises(NotYet):
        schedule_steps.see_it_open(scheduled)
    monkeypatch.setattr(schedule_steps, "OPEN_SECONDS", 0.0)
    with pytest.raises(StepFailed, match="did not open in time"):
        schedule_steps.see_it_open(scheduled)


def test_the_cutover_counts_as_the_lead_s_and_the_start_is_not_told_twice(ends: FakeEnds) -> None:
    ends.boxes["mail"].error = OSError("down")
    scheduled = call(ends, minutes=10)  # within the freeze
    schedule_steps.open_schedule(scheduled)
    assert ends.boxes["slack"].subjects == ["migration to PostgreSQL begins"] and ends.boxes["mail"].got == []
    schedule_steps.wait_for_freeze(scheduled)
    run_id, form = schedule_steps.begin(scheduled)
    with pytest.raises(NotYet):
        schedule_steps.see_it_open(scheduled)
    step = open_cutover(ends, run_id, form)
    opened = step.evidence.last("run.opened")
    assert opened is not None and (opened["actor"], opened["scheduled"]) == ("lead", "s1")
    assert opened["window_start"] == schedule_steps.opened_by(scheduled)["window_start"]
    schedule_steps.see_it_open(scheduled)
    assert schedule_steps.close_schedule(scheduled).startswith("the cutover continues")
    assert schedule_steps.close_schedule(scheduled).startswith("the cutover continues")

    ends.boxes["mail"].error = None
    step.name = "announce_start"
    run(step, announce_steps.announce, Terms(), {"notice": "start"})
    notice_steps.deliver(step.evidence, step.plan, ends.channels, patient=False)
    notice_steps.deliver(schedule_steps.evidence_of(scheduled), step.plan, ends.channels, patient=False)
    freeze = "change freeze before the migration to PostgreSQL"
    assert ends.boxes["slack"].subjects == ["migration to PostgreSQL begins", freeze]
    assert sorted(ends.boxes["mail"].subjects) == sorted(ends.boxes["slack"].subjects), "once, there too"


@pytest.mark.parametrize("actor", ["observer", "communicator", "", None])
def test_only_the_lead_schedules_and_calls_off(ends: FakeEnds, actor: str | None) -> None:
    with pytest.raises(Refused, match="only the lead or a deputy may schedule a cutover"):
        schedule_steps.open_schedule(call(ends, actor=actor))
    assert not schedule.of(PLAN, "s1").exists and ends.boxes["slack"].subjects == []
    schedule_steps.open_schedule(call(ends))
    with pytest.raises(Refused, match="only the lead or a deputy may call a cutover off"):
        schedule_steps.open_schedule(call(ends, "s2", actor, None, action="call off"))


@pytest.mark.parametrize(
    ("minutes", "form", "match"),
    [
        (-1, {}, "scheduled for a future time"),
        (None, {}, "needs the start of the window"),
        (60, {"approve": "auto"}, "does not allow automatic approval"),
        (None, {"action": "call off"}, "no cutover is scheduled"),
    ],
)
def test_what_cannot_be_is_refused_at_once(ends: FakeEnds, minutes: float | None, form: dict[str, Any], match: str) -> None:
    with pytest.raises(Refused, match=match):
        schedule_steps.open_schedule(call(ends, minutes=minutes, **form))
    assert ends.boxes["slack"].subjects == []


def test_it_is_called_off_with_a_word(ends: FakeEnds) -> None:
    scheduled = call(ends)
    schedule_steps.open_schedule(scheduled)
    other = call(ends, "s2", minutes=None, action="call off", reason="the vendor is ill")
    assert schedule_steps.open_schedule(other) == "called off: s1"
    for body in (schedule_steps.wait_for_freeze, schedule_steps.begin, schedule_steps.see_it_open):
        with pytest.raises(NotNeeded):
            body(other)
    schedule_steps.close_schedule(other)
    assert ends.boxes["slack"].subjects == ["migration to PostgreSQL begins", "migration did not take place"]
    assert "did not take place: the vendor is ill. Ward OPS runs" in ends.boxes["slack"].got[1][1]
    for body in (schedule_steps.wait_for_freeze, schedule_steps.begin):
        with pytest.raises(Refused, match="was called off"):
            body(scheduled)
    with pytest.raises(StepFailed, match="the cutover does not take place"):
        schedule_steps.close_schedule(scheduled)
    assert len(ends.boxes["slack"].subjects) == 2, "and people hear it once"
    with pytest.raises(Refused, match="the scheduled cutover was called off"):
        open_cutover(ends, schedule_steps.opened_by(scheduled)["cutover"], {**FORM, "scheduled": "s1", "window_start": None})
    schedule_steps.open_schedule(call(ends, "s3"))  # and another may be scheduled


def test_a_schedule_that_somebody_ended_tells_people(ends: FakeEnds) -> None:
    scheduled = call(ends)
    schedule_steps.open_schedule(scheduled)
    with pytest.raises(StepFailed):
        schedule_steps.close_schedule(scheduled)  # the wait was marked as failed
    assert ends.boxes["slack"].subjects[-1] == "migration did not take place"
    with pytest.raises(Refused, match="called off"):
        schedule_steps.begin(scheduled)


def test_a_cutover_that_refuses_to_open_is_told(ends: FakeEnds) -> None:
    scheduled = call(ends, minutes=10)
    schedule_steps.open_schedule(scheduled)
    earlier = Step(PLAN, "open_run", Caller(f"cutover_{PLAN}", "by hand", "lead", {**FORM, "window_start": None}), ends)
    run(earlier, open_run.open_run, Terms(opens=True))
    run_id, form = schedule_steps.begin(scheduled)
    with pytest.raises(CutoverError, match="another run of this plan is open"):
        open_cutover(ends, run_id, form)
    with pytest.raises(StepFailed, match="refused to open"):
        schedule_steps.see_it_open(scheduled)
    with pytest.raises(StepFailed, match="another run of this plan is open"):
        schedule_steps.close_schedule(scheduled)
    assert "another run of this plan is open" in ends.boxes["slack"].got[-1][1]


def test_a_cutover_that_begins_cannot_be_called_off_behind_its_back(ends: FakeEnds) -> None:
    scheduled = call(ends, minutes=10)
    schedule_steps.open_schedule(scheduled)
    run_id, form = schedule_steps.begin(scheduled)
    open_cutover(ends, run_id, form)
    with pytest.raises(Refused, match="no cutover is scheduled that has not begun"):
        schedule_steps.open_schedule(call(ends, "s2", minutes=None, action="call off"))
    assert "migration did not take place" not in ends.boxes["slack"].subjects


# --- the outbox's DAG and the communicator's ------------------------------------------------------------------------------


def pending(ends: FakeEnds) -> list[Evidence]:
    return [item for folder in (schedule.folder(PLAN), runs_folder()) for item in outbox_files.marked(folder)]


def runs_folder() -> Path:
    return Evidence.of(PLAN, "x").folder.parent


def test_the_outbox_serves_schedules_and_runs_and_then_has_nothing_to_do(
    ends: FakeEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends.boxes["slack"].error = ends.boxes["mail"].error = OSError("down")
    schedule_steps.open_schedule(call(ends))
    other = Step(PLAN, "open_run", Caller(f"cutover_{PLAN}", "r1", "lead", {**FORM, "window_start": None}), ends)
    run(other, open_run.open_run, Terms(opens=True))
    other.name = "announce_start"
    run(other, announce_steps.announce, Terms(), {"notice": "start"})
    ends.boxes["slack"].error = ends.boxes["mail"].error = None
    assert len(pending(ends)) == 2
    minute = call(ends, "minute")
    assert send_pending.send_pending(minute) == "0 sent, 0 failed", "they failed just now"
    monkeypatch.setattr(notices, "_PAUSE", timedelta(0))
    assert send_pending.send_pending(minute) == "4 sent, 0 failed"
    assert send_pending.send_pending(minute) == "0 sent, 0 failed"
    assert [item.folder.name for item in pending(ends)] == ["r1"], "the clock of the open run still has something to say"
    other.evidence.append("sealed", outcome="abandoned")
    send_pending.send_pending(minute)
    assert pending(ends) == []
    monkeypatch.setattr(notice_steps, "deliver", None)
    assert send_pending.send_pending(minute) == "0 sent, 0 failed"


def test_a_run_that_tells_nobody_leaves_the_outbox_at_once(ends: FakeEnds) -> None:
    silent = Caller(f"cutover_{PLAN}", "r1", "lead", {**FORM, "window_start": None, "notify": False})
    run(Step(PLAN, "open_run", silent, ends), open_run.open_run, Terms(opens=True))
    assert len(pending(ends)) == 1
    send_pending.send_pending(call(ends, "minute"))
    assert pending(ends) == []


@pytest.fixture
def held(ends: FakeEnds, monkeypatch: pytest.MonkeyPatch) -> Step:
    """A run whose start notice waits for the communicator."""
    monkeypatch.setattr(notice_steps, "hold", lambda plan: timedelta(minutes=5))
    step = Step(PLAN, "open_run", Caller(f"cutover_{PLAN}", "r1", "lead", {**FORM, "window_start": None}), ends)
    run(step, open_run.open_run, Terms(opens=True))
    step.name = "announce_start"
    done = run(step, announce_steps.announce, Terms(), {"notice": "start"})
    assert "held until" in done.summary and ends.boxes["slack"].subjects == []
    return step


def edit(ends: FakeEnds, actor: str | None = "communicator", **form: Any) -> str:
    form = {"action": "release", "notice": "start", "text": None, "run": None, **form}
    return edit_notice.edit_notice(Call(PLAN, Caller(f"notices_{PLAN}", "n1", actor, form), ends))


def test_the_communicator_edits_and_releases(ends: FakeEnds, held: Step) -> None:
    shown = edit(ends, action="preview")
    assert "Heads up: Ward OPS database migration" in shown and "delay.half (due at " in shown
    assert edit(ends, action="withhold") == "start: not sent, withheld by communicator"
    told = edit(ends, text="Tonight at ten.\nTamar")
    assert told == "start: sent to mail, slack"
    assert ends.boxes["slack"].got == [("Ward OPS: migration to PostgreSQL begins", "Tonight at ten.\nTamar")]
    assert {event["by"] for event in held.evidence.events() if event["event"] == "notice.released"} == {"communicator"}
    edit(ends, notice="deadline", text="No time left: <reason>")
    assert len(ends.boxes["slack"].got) == 1, "it is not due"
    assert notices.outbox(held.evidence.events())["deadline"].message.text == "No time left: <reason>"
    with pytest.raises(Refused, match="cannot be changed"):
        edit(ends, text="again")


@pytest.mark.parametrize("actor", ["observer", "nobody", "", None])
def test_nobody_else_edits(ends: FakeEnds, held: Step, actor: str | None) -> None:
    for action in ("preview", "release", "withhold"):
        with pytest.raises(Refused, match="only the communicator, the lead or a deputy"):
            edit(ends, actor, action=action)
    assert ends.boxes["slack"].subjects == [] and held.evidence.last("notice.released") is None


def test_the_run_goes_on_without_the_communicator(ends: FakeEnds, held: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "datetime", type("Later", (datetime,), {"now": classmethod(_in_six_minutes)}))
    monkeypatch.setattr(delivery, "datetime", type("Later", (datetime,), {"now": classmethod(_in_six_minutes)}))
    monkeypatch.setattr(notice_steps, "datetime", type("Later", (datetime,), {"now": classmethod(_in_six_minutes)}))
    send_pending.send_pending(call(ends, "minute"))
    assert ends.boxes["slack"].subjects == ["migration to PostgreSQL begins"]


def _in_six_minutes(_: Any, zone: Any = None) -> datetime:
    return datetime.now(zone) + timedelta(minutes=6)
