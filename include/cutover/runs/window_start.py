"""Reads the start of a window as a person typed it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from include.cutover.errors import Refused
from include.cutover.plan.model import Plan

YEARS = 1
"""Years between the start of a window and the current year, at most."""

_SHOWN = 60


@dataclass(frozen=True)
class WindowStart:
    """The start of a window.

    Attributes:
        moment: In UTC.
        note: States the time zone that was assumed; empty where the text has an offset.
    """

    moment: datetime
    note: str = ""


def read(text: str | None, plan: Plan, where: str = "window_start", *, years: int = YEARS) -> WindowStart:
    """Return the start of the window; now for an empty text. A time without an offset is in the plan's time zone.

    Args:
        text: As it was typed, ISO 8601.
        plan: Names the time zone: ``window.time_zone``.
        where: The field or option, for errors.
        years: Years between it and the current year, at most.

    Raises:
        Refused: When the text is not a date and time, when its year cannot be right, or when the time without an offset
            occurs twice or never, because the clocks are changed.
    """
    now = datetime.now(UTC)
    text = (text or "").strip()
    if not text:
        return WindowStart(now)
    try:
        typed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise _refused("not a date and time", where, text) from None
    if _is_date(text):
        raise _refused("a date without a time", where, text)
    if abs(typed.year - now.year) > years:  # far from the limits of datetime, where a change of the zone overflows
        raise _refused("the year cannot be right", where, text)
    if typed.tzinfo is not None:
        return WindowStart(typed.astimezone(UTC))
    zone = ZoneInfo(plan.window.time_zone)
    moments = {typed.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    if len(moments) > 1:  # twice, or, where it does not lead back to the same time, never
        often = "twice" if all(_leads_back(moment, typed, zone) for moment in moments) else "never"
        raise _refused(f"this time occurs {often} in {zone.key}, because the clocks are changed", where, text)
    (moment,) = moments
    return WindowStart(moment, f"{typed:%Y-%m-%d %H:%M} has no offset and is {zone.key} time: {moment:%Y-%m-%d %H:%M} UTC")


def _leads_back(moment: datetime, typed: datetime, zone: ZoneInfo) -> bool:
    return moment.astimezone(zone).replace(tzinfo=None) == typed


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _refused(message: str, where: str, text: str) -> Refused:
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    expected = f"a date and time such as {datetime.now(UTC).year}-03-01T22:00+04:00"
    return Refused(message, where=where, expected=expected, found=repr(shown), do="Enter it again, with its offset.")
