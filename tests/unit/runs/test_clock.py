"""Until when a run may go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.cutover.errors import Refused
from include.cutover.evidence import steady
from include.cutover.people import notice_texts
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Window
from include.cutover.runs.clock import Clock, Measured, read

START = datetime(2025, 10, 11, 22, 0, tzinfo=UTC)
WINDOW = Window(minutes=60, freeze_minutes=15, rollback_minutes=5, rollback_margin=2)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_the_deadline_leaves_time_to_go_back() -> None:
    clock = Clock.of(WINDOW, START)
    assert (clock.freeze, clock.end, clock.deadline) == (at(-15), at(60), at(50))


def test_measured_rollback_time_replaces_the_plans() -> None:
    clock = Clock.of(WINDOW, START, Measured("rehearsal", rollback=60.0))
    assert clock.deadline == at(58)


@pytest.mark.parametrize(("minute", "late"), [(-30, False), (0, False), (49.9, False), (50, True), (51, True), (90, True)])
def test_step_past_the_deadline_is_refused(minute: float, late: bool) -> None:
    clock = Clock.of(WINDOW, START)
    assert bool(clock.late("copy.users", at(minute))) == late
    if late:
        with pytest.raises(Refused, match=r"live before 2025-10-11 22:50:00 UTC.*the deadline was .* and it is"):
            clock.require_in_time("copy.users", at(minute))
    else:
        clock.require_in_time("copy.users", at(minute))


def test_step_is_refused_when_the_rest_no_longer_fits() -> None:
    clock = Clock.of(WINDOW, START, Measured("rehearsal", 300.0, {"copy.users": 1200.0, "decide": 10.0}))
    assert not clock.late("copy.users", at(29))
    assert "the rest takes 20.0 minutes, as rehearsed by rehearsal" in clock.late("copy.users", at(31))
    assert not clock.late("decide", at(31))
    assert not clock.late("a step that no rehearsal knew", at(31))


def test_clock_is_equal_after_a_round_trip_through_the_evidence() -> None:
    clock = Clock.of(WINDOW, START, Measured("rehearsal", 60.0, {"decide": 10.0}))
    assert read([{"event": "clock", **clock.as_fields()}]) == clock
    assert read([{"event": "run.opened"}]) is None


def test_window_too_short_for_the_way_back_is_invalid() -> None:
    with pytest.raises(ValueError, match="more than rollback_minutes"):
        Window(minutes=10, rollback_minutes=8)


def events_of(clock: Clock, shown: datetime, real_seconds_ago: float) -> list[dict[str, Any]]:
    """A run that opened so long ago by elapsed time, when the host's clock showed that."""
    stamp = steady.stamp()
    opened = {"event": "clock", "time": shown.isoformat(), **stamp, "up": stamp["up"] - real_seconds_ago}
    return [{**opened, **clock.as_fields()}]


needs_boot = pytest.mark.skipif(not steady.boot(), reason="this system has no boot id")


@needs_boot
def test_clock_that_was_set_back_does_not_move_the_deadline() -> None:
    now = datetime.now(UTC)
    opened = now + timedelta(minutes=5)  # then the clock was set back by an hour, 55 minutes after that
    clock = Clock.of(WINDOW, opened)
    found = read(events_of(clock, opened, 55 * 60))
    assert found is not None and found == clock
    said = found.late("copy.users")
    assert said.startswith("the deadline was") and said.endswith("clock went back by 1 h 00 min since the run opened")
    assert not found.late("copy.users", now)
    assert found.now() - now > timedelta(minutes=59)


@needs_boot
def test_clock_that_was_set_ahead_is_believed_for_the_deadline_and_not_for_the_start() -> None:
    now = datetime.now(UTC)
    start = now - timedelta(minutes=1)
    clock = Clock.of(WINDOW, start)
    ahead = read(events_of(clock, now - timedelta(hours=1), 60.0))  # opened an hour ago by the clock, a minute ago in truth
    assert ahead is not None
    assert timedelta(minutes=57) < ahead.until_start() < timedelta(minutes=59)
    assert "ahead by 59 min" in ahead.disagreement()
    past = read(events_of(Clock.of(WINDOW, now - timedelta(minutes=51)), now - timedelta(hours=1), 60.0))
    assert past is not None and past.late("copy.users").startswith("the deadline was")


@needs_boot
def test_clock_that_was_not_set_is_no_matter() -> None:
    now = datetime.now(UTC)
    found = read(events_of(Clock.of(WINDOW, now), now - timedelta(minutes=3), 180.0))
    assert found is not None
    assert (found.disagreement(), found.until_start(), found.late("copy.users")) == ("", timedelta(), "")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-29T00:30+00:00", "2026-03-29 01:30 UTC (2026-03-29 03:30 Europe/Berlin, UTC+02:00)"),
        ("2026-10-25T00:30+00:00", "2026-10-25 01:30 UTC (2026-10-25 02:30 Europe/Berlin, UTC+01:00)"),
    ],
)
def test_window_over_a_change_of_the_clocks_has_its_minutes_and_says_its_offsets(start: str, end: str) -> None:
    plan = load_plan("ward_ops")
    plan = plan.model_copy(update={"window": WINDOW.model_copy(update={"time_zone": "Europe/Berlin"})})
    clock = Clock.of(plan.window, datetime.fromisoformat(start))
    assert clock.end - clock.start == timedelta(minutes=60)
    assert notice_texts.when(plan, clock.end) == end
    said = notice_texts.message(plan, "start", clock, run_id="run").text
    assert end in said or "Europe/Berlin, UTC+0" in said
    assert notice_texts.when(load_plan("ward_ops"), clock.end) == end.partition(" (")[0]
