"""Until when a run may go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.cutover.errors import Refused
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
