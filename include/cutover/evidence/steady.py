"""Time that passes evenly: elapsed time between the events of a run, also where a host's clock is set meanwhile.

Each event carries its host's boot and the seconds since then, beside the time of the clock. The seconds come from
CLOCK_BOOTTIME of Linux: nobody can set it, all processes of a boot share it, and it counts while the host sleeps. Events
of other boots, and older ones without these fields, are compared by the clock, and never count backwards.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

JUMP = 2.0
"""Seconds that clock and elapsed time may differ; more is a clock that was set."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Event = Mapping[str, Any]


@functools.cache
def boot() -> str:
    """Return the id of this host's boot; empty where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()[:8] if hasattr(time, "CLOCK_BOOTTIME") else ""
    except OSError:
        return ""


def stamp() -> dict[str, Any]:
    """Return the fields that let an event be compared with others of this boot; empty where the system has no boot id."""
    return {"boot": boot(), "up": round(_up(), 3)} if boot() else {}


def _up() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _here(event: Event) -> bool:
    return bool(boot()) and event.get("boot") == boot() and "up" in event


def time_of(event: Event) -> datetime:
    """Return the time of the clock at which an event was recorded."""
    return datetime.fromisoformat(str(event["time"]))


def elapsed(event: Event) -> float | None:
    """Return the seconds since an event of this boot; None for any other event."""
    return max(0.0, _up() - float(event["up"])) if _here(event) else None


def counted(events: Sequence[Event]) -> datetime | None:
    """Return this instant, counted from the first event of this boot by elapsed time; None where there is none."""
    first = next((event for event in events if _here(event)), None)
    return None if first is None else time_of(first) + timedelta(seconds=max(0.0, _up() - float(first["up"])))


def since(event: Event, now: datetime | None = None) -> float:
    """Return the seconds from an event until now, by elapsed time where it is of this boot; never less than 0.

    Args:
        event: The event.
        now: The instant by the clock; the current one, by elapsed time, when left out.
    """
    found = elapsed(event) if now is None else None
    return max(0.0, ((now or datetime.now(UTC)) - time_of(event)).total_seconds()) if found is None else found


def drift(event: Event) -> float:
    """Return the seconds that this host's clock was set forward since an event, negative for back; 0 where none is known."""
    found = elapsed(event)
    return 0.0 if found is None else (datetime.now(UTC) - time_of(event)).total_seconds() - found


def between(earlier: Event, later: Event) -> float:
    """Return the seconds between two events: elapsed time within a boot, else by the clock; never less than 0."""
    if earlier.get("boot") and earlier.get("boot") == later.get("boot"):
        return max(0.0, float(later["up"]) - float(earlier["up"]))
    return max(0.0, (time_of(later) - time_of(earlier)).total_seconds())


@dataclass(frozen=True)
class Jump:
    """A clock that was set between two events.

    Attributes:
        seq: Place of the event behind it, counted from 0.
        to: The clock after it.
        seconds: By how much: positive is forward. Across two boots it is what the clock went back at least.
        exact: False across two boots, where the elapsed time is not known.
    """

    seq: int
    to: datetime
    seconds: float
    exact: bool

    def __str__(self) -> str:
        way = "ahead" if self.seconds > 0 else "back"
        least = "" if self.exact else "at least "
        return f"the clock went {way} by {least}{in_words(self.seconds)} before {self.to:%Y-%m-%d %H:%M:%S} UTC"


def in_words(seconds: float) -> str:
    """Return a difference of clocks, without its sign: ``12 s``, ``59 min`` or ``2 h 05 min``."""
    seconds = abs(seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _walk(events: Sequence[Event]) -> tuple[list[datetime], list[Jump]]:
    moments: list[datetime] = []
    jumps: list[Jump] = []
    known: dict[str, tuple[datetime, Event]] = {}
    for number, event in enumerate(events):
        clock, home = time_of(event), str(event.get("boot") or "")
        before, anchor = (moments[-1] if moments else clock), known.get(home) if home else None
        if anchor is not None:
            seconds = between(anchor[1], event)
            moment = max(before, anchor[0] + timedelta(seconds=seconds))
            off = (clock - time_of(anchor[1])).total_seconds() - seconds
            exact = True
        else:
            off = min(0.0, (clock - time_of(events[number - 1])).total_seconds()) if number else 0.0
            last = time_of(events[number - 1]) if number else clock
            moment = before + max(timedelta(), clock - last)
            exact = False
        if abs(off) > JUMP:
            jumps.append(Jump(number, clock, off, exact))
        moments.append(moment)
        if home:
            known[home] = (moment, event)
    return moments, jumps


def moments(events: Sequence[Event]) -> list[datetime]:
    """Return a time for each event that goes on evenly from the first one's, whatever was done to the clock."""
    return _walk(events)[0]


def jumps(events: Sequence[Event]) -> list[Jump]:
    """Return each time at which the clock was set between two events, as far as they show it."""
    return _walk(events)[1]
