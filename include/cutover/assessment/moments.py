"""Reads numbers as dates and times, and checks dates and times against the calendar."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # in UTC, printed without an offset, as applications write it
_JULIAN_EPOCH = Fraction(4881175, 2)  # Julian day of 1970-01-01 00:00
_PLAUSIBLE = {  # 1980 to 2100
    "unix": (315_532_800, 4_102_444_800),
    "unix_ms": (315_532_800_000, 4_102_444_800_000),
    "julian": (2_444_239.5, 2_488_069.5),
}
MEANINGS = tuple(_PLAUSIBLE)
"""Meanings of a number in a date column, as a plan names them."""

_NUMBER_IN_TEXT = re.compile(r"-?[0-9](?:[0-9]*\.)?[0-9]*(?<!\.)")
_MIDNIGHT = re.compile(r"24:00(?::00(?:\.0+)?)?(?: ?(?:[Zz]|[+-]\d\d:\d\d))?")


def is_number(text: str) -> bool:
    """Return True for decimal digits that may be a number stored as text."""
    return _NUMBER_IN_TEXT.fullmatch(text) is not None


def moment(value: float | str, meaning: str, base: str = "timestamptz") -> str | None:
    """Return the date and time that a number means, in UTC as text; None beyond the years 1 to 9999.

    Reals are read to the nearest microsecond, Julian days to the millisecond: a REAL of that size is not more precise.

    Args:
        value: A number, or its decimal digits.
        meaning: One of ``MEANINGS``.
        base: The target's type; ``date`` accepts midnights only.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    number = Fraction(Decimal(value) if isinstance(value, str) else value)
    if meaning == "julian":
        microseconds = round((number - _JULIAN_EPOCH) * 86_400_000) * 1000
    else:
        exact = number * (1_000_000 if meaning == "unix" else 1000)
        if isinstance(value, str) and exact.denominator != 1:
            return None
        microseconds = round(exact)
    try:
        found = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
    if base == "date":
        return found.date().isoformat() if found == datetime.combine(found.date(), datetime.min.time()) else None
    return found.isoformat(" ", "microseconds")


def possible_meanings(value: float | str, base: str) -> frozenset[str]:
    """Return what a number may count, if that gives a time from 1980 to 2100 that the target's type can hold."""
    number = Decimal(value)
    possible = (name for name, (least, most) in _PLAUSIBLE.items() if least <= number <= most)
    return frozenset(name for name in possible if moment(value, name, base) is not None)


def exists(text: str, base: str) -> bool:
    """Return True when the day and the hour exist. The copy leaves that check to PostgreSQL."""
    clock = text if base == "time" else text[11:]
    if clock.startswith("24") and not _MIDNIGHT.fullmatch(clock):
        return False
    try:
        return base == "time" or bool(date.fromisoformat(text[:10]))
    except ValueError:
        return False
