"""Elapsed time between events, whatever is done to the clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.cutover import files
from include.cutover.evidence import record, steady
from include.cutover.evidence.record import Evidence

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def event(clock: float, up: float | None = None, boot: str = "a") -> dict[str, Any]:
    """An event whose clock showed so many seconds after noon, so many seconds after the boot."""
    fields = {} if up is None else {"boot": boot, "up": up}
    return {"event": "x", "time": (NOON + timedelta(seconds=clock)).isoformat(), **fields}


def seconds(events: list[dict[str, Any]]) -> list[float]:
    return [(moment - NOON).total_seconds() for moment in steady.moments(events)]


@pytest.mark.parametrize(
    ("events", "expected", "jumps"),
    [
        ([event(0, 10), event(5, 15), event(6, 16)], [0, 5, 6], []),
        ([event(0, 10), event(-3595, 15), event(-3594, 16)], [0, 5, 6], ["back by 1 h 00 min"]),
        ([event(0, 10), event(3605, 15), event(6, 16)], [0, 5, 6], ["ahead by 1 h 00 min", "back by 1 h 00 min"]),
        ([event(0), event(-3600), event(-3595)], [0, 0, 5], ["back by at least 1 h 00 min"]),
        ([event(0, 10), event(100, 3, "b"), event(105, 8, "b")], [0, 100, 105], []),
        ([event(0, 10), event(-100, 3, "b"), event(7, 17), event(-90, 13, "b")], [0, 0, 7, 10], ["back by at least 2 min"]),
        ([event(0, 10), event(1, 10.5)], [0, 0.5], []),
    ],
    ids=["even", "back", "ahead and back", "older events", "reboot", "two hosts", "clock that is slewed"],
)
def test_moments_go_on_evenly(events: list[dict[str, Any]], expected: list[float], jumps: list[str]) -> None:
    found = seconds(events)
    assert found == pytest.approx(expected)
    said = [str(jump).partition(" before")[0] for jump in steady.jumps(events)]
    assert said == [f"the clock went {jump}" for jump in jumps]


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of the evidence go wrong; elapsed time stays the system's."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(files, "datetime", Shifted)
    monkeypatch.setattr(steady, "datetime", Shifted)


@pytest.mark.skipif(not steady.boot(), reason="this system has no boot id")
@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_recorded_events_are_compared_by_elapsed_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    evidence = Evidence(tmp_path / "plan" / "run")
    first = evidence.append("one")
    set_clock(monkeypatch, jump)
    assert abs(steady.drift(first) - jump) < 60
    assert 0 <= steady.since(first) < 60
    second = evidence.append("two")
    assert 0 <= steady.between(first, second) < 60
    (found,) = steady.jumps(evidence.events())
    assert (found.exact, abs(found.seconds - jump) < 60) == (True, True)
    counted = steady.counted(evidence.events())
    assert counted is not None and abs((counted - datetime.now(UTC)).total_seconds()) < 60


def test_event_without_a_stamp_of_this_boot_has_no_elapsed_time() -> None:
    other = event(0, 10, "another")
    assert (steady.elapsed(other), steady.drift(other), steady.counted([other])) == (None, 0.0, None)
    assert steady.since(other, NOON - timedelta(hours=1)) == 0.0


def test_runs_are_listed_by_their_number_where_the_clock_went_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old: Mapping[str, Any] = {"time": (NOON - timedelta(days=9)).isoformat()}
    Evidence(tmp_path / "z_old").append("run.opened", **{**old, "number": 0})
    Evidence(tmp_path / "y_first").append("run.opened")
    set_clock(monkeypatch, -7200.0)
    Evidence(tmp_path / "x_second").append("run.opened")
    set_clock(monkeypatch, 86400.0 * 30)
    Evidence(tmp_path / "w_third").append("run.opened")
    set_clock(monkeypatch, 0.0)
    Evidence(tmp_path / "v_fourth").append("run.opened")
    found = [run.folder.name for run in record.runs_below(tmp_path)]
    assert found == ["z_old", "y_first", "x_second", "w_third", "v_fourth"]
