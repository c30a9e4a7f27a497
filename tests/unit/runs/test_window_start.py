"""The start of a window as people type it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from include.cutover.errors import Refused
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan, Window
from include.cutover.runs import window_start

YEAR = datetime.now(UTC).year


def plan(zone: str = "UTC") -> Plan:
    found = load_plan("ward_ops")
    return found.model_copy(update={"window": found.window.model_copy(update={"time_zone": zone})})


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_empty_field_is_now(text: str | None) -> None:
    begun = datetime.now(UTC)
    found = window_start.read(text, plan())
    assert begun <= found.moment <= datetime.now(UTC) and found.note == ""


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (f"{YEAR}-07-01T22:00+04:00", datetime(YEAR, 7, 1, 18, tzinfo=UTC)),
        (f" {YEAR}-07-01 22:00:30Z ", datetime(YEAR, 7, 1, 22, 0, 30, tzinfo=UTC)),
        (f"{YEAR + 1}-01-01T00:00-11:00", datetime(YEAR + 1, 1, 1, 11, tzinfo=UTC)),
    ],
)
def test_an_offset_decides(text: str, moment: datetime) -> None:
    assert window_start.read(text, plan("Asia/Tbilisi")) == window_start.WindowStart(moment)


@pytest.mark.parametrize(("zone", "hours"), [("Asia/Tbilisi", 4), ("UTC", 0), ("America/New_York", -4)])
def test_without_an_offset_the_plan_s_time_zone_counts_and_is_stated(zone: str, hours: int) -> None:
    found = window_start.read(f"{YEAR}-07-01T12:00", plan(zone))
    assert found.moment == datetime(YEAR, 7, 1, 12, tzinfo=UTC) - timedelta(hours=hours)
    assert found.note == (f"{YEAR}-07-01 12:00 has no offset and is {zone} time: {YEAR}-07-01 {12 - hours:02}:00 UTC")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tomorrow", "not a date and time"),
        ("22:00", "not a date and time"),
        (f"{YEAR}-13-01T00:00", "not a date and time"),
        (f"{YEAR}-07-01T22:00+99:00", "not a date and time"),
        (f"{YEAR}-07-01", "a date without a time"),
        (f"{YEAR}0701", "a date without a time"),
        ("0001-01-01T00:00+14:00", "the year cannot be right"),
        ("0001-01-01T00:00", "the year cannot be right"),
        ("9999-12-31T23:59:59-12:00", "the year cannot be right"),
        (f"{YEAR + 10}-01-01T00:00Z", "the year cannot be right"),
        ("x" * 5000, "not a date and time"),
    ],
)
def test_a_text_that_cannot_be_meant_is_refused_with_an_example(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        window_start.read(text, plan("Asia/Tbilisi"))
    assert caught.value.where == "window_start" and f"{YEAR}-03-01T22:00+04:00" in caught.value.expected
    assert len(str(caught.value)) < 400


def test_times_that_the_change_of_the_clocks_skips_or_repeats_are_refused() -> None:
    """In Berlin the clocks change on the last Sundays of March and October, at one o'clock UTC."""

    def last_sunday(month: int) -> datetime:
        day = datetime(YEAR, month, 31, tzinfo=UTC).replace(tzinfo=None)
        return day - timedelta(days=(day.weekday() + 1) % 7)

    for month, often in ((3, "never"), (10, "twice")):
        text = last_sunday(month).replace(hour=2, minute=30).isoformat()
        with pytest.raises(Refused, match=f"this time occurs {often} in Europe/Berlin"):
            window_start.read(text, plan("Europe/Berlin"))
        assert window_start.read(f"{text}+01:00", plan("Europe/Berlin")).note == ""


@pytest.mark.parametrize("zone", ["Asia/Tiflis", "../etc/passwd", "", "+04:00", "Asia"])
def test_unknown_time_zone_is_a_fault_of_the_plan(zone: str) -> None:
    with pytest.raises(ValidationError, match="not a time zone of the IANA database"):
        Window(time_zone=zone)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_infinite_number_is_a_fault_of_the_plan(number: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Window(rollback_minutes=number)
