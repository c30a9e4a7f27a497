"""The clock of a run: begin and end of its window, and the deadline for going live.

Going back takes time, too. The deadline is the end of the window less the time that a rollback takes, with a margin: a run
that is not live by then goes back, so that the application runs again when the window ends, on either database. A rehearsal
also measures how long the rest takes: a run for which that no longer fits goes back before the deadline.

The instants are computed once, when the run opens, and read from the evidence by every step. Steps compare them with this
host's clock and with the time that has passed since the run opened: where the two disagree, because the clock was set, the
window has begun only when both say so, and it is too late as soon as one of them says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from include.cutover.errors import Refused
from include.cutover.evidence import steady
from include.cutover.evidence.record import Event
from include.cutover.plan.model import Window

EVENT = "clock"


class OutOfTime(Refused):
    """Too late to continue and still be able to go back. The run goes back by itself."""


@dataclass(frozen=True)
class Measured:
    """Times that a rehearsal measured, in seconds.

    Attributes:
        run_id: The rehearsal.
        rollback: The whole way back.
        remaining: By step, from its begin until the services run on the target.
    """

    run_id: str
    rollback: float
    remaining: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """The instants of a run, UTC.

    Attributes:
        freeze: From here on only the run changes the application.
        start: Begin of the window.
        end: End of the window.
        deadline: From here on the run goes back unless it is live.
        rollback_seconds: Time that going back takes, without the margin.
        measured_by: The rehearsal that measured them; None where they are the plan's.
        remaining: As in ``Measured``; empty where nothing was measured.
        opened: The events of the run, by which elapsed time is counted; not recorded.
    """

    freeze: datetime
    start: datetime
    end: datetime
    deadline: datetime
    rollback_seconds: float
    measured_by: str | None = None
    remaining: Mapping[str, float] = field(default_factory=dict)
    opened: Sequence[Event] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, window: Window, start: datetime, measured: Measured | None = None) -> Clock:
        """Compute the clock of a window that begins at ``start``."""
        end = start + timedelta(minutes=window.minutes)
        rollback = window.rollback_minutes * 60 if measured is None else measured.rollback
        return cls(
            freeze=start - timedelta(minutes=window.freeze_minutes),
            start=start,
            end=end,
            deadline=end - timedelta(seconds=rollback * window.rollback_margin),
            rollback_seconds=rollback,
            measured_by=None if measured is None else measured.run_id,
            remaining={} if measured is None else dict(measured.remaining),
        )

    @classmethod
    def from_event(cls, event: Event, events: Sequence[Event] = ()) -> Clock:
        """Return the clock that was recorded in an event, one of ``events``."""
        freeze, start, end, deadline = (
            datetime.fromisoformat(event[name]) for name in ("freeze", "start", "end", "deadline")
        )
        return cls(freeze, start, end, deadline, event["rollback_seconds"], event["measured_by"], event["remaining"], events)

    def after(self, part: float) -> datetime:
        """Return the instant at which that part of the window, 0 to 1, has passed."""
        return self.start + part * (self.end - self.start)

    def as_fields(self) -> dict[str, Any]:
        """Return the fields for the evidence."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "opened"}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in own.items()}

    def now(self) -> datetime:
        """Return the present instant by the clock, or by the time since the run opened where that is later."""
        return max(self._instants())

    def until_start(self) -> timedelta:
        """Return the time until the window begins, by the clock or by the time since the run opened: the longer one."""
        return max(timedelta(), self.start - min(self._instants()))

    def disagreement(self) -> str:
        """Return how far this host's clock was set since the run opened; empty where it was not."""
        clock, counted = self._instants()
        off = (clock - counted).total_seconds()
        if not off:
            return ""
        return f"this host's clock went {'ahead' if off > 0 else 'back'} by {steady.in_words(off)} since the run opened"

    def _instants(self) -> tuple[datetime, datetime]:
        """Return this instant by the clock and by elapsed time; the same twice where the clock was not set."""
        clock = datetime.now(UTC)
        counted = steady.counted(self.opened) or clock
        return clock, counted if abs((clock - counted).total_seconds()) > steady.JUMP else clock

    def late(self, step: str, now: datetime | None = None) -> str:
        """Return why it is too late for ``step`` to begin, as a sentence; empty while it may."""
        said = "" if now is not None or not (said := self.disagreement()) else f"; {said}"
        now = now or self.now()
        if now >= self.deadline:
            return f"the deadline was {_clock_time(self.deadline)} and it is {_clock_time(now)}{said}"
        ready = now + timedelta(seconds=self.remaining.get(step, 0.0))
        if ready >= self.deadline:
            minutes = self.remaining[step] / 60
            return (
                f"the rest takes {minutes:.1f} minutes, as rehearsed by {self.measured_by}: until {_clock_time(ready)}, "
                f"and the deadline is {_clock_time(self.deadline)}{said}"
            )
        return ""

    def require_in_time(self, step: str, now: datetime | None = None, *, rest_from: str | None = None) -> None:
        """Refuse a step for which it is too late.

        Args:
            step: Name of the step.
            now: The instant to decide for; the current one when left out.
            rest_from: The step that the rest begins with; ``step`` itself, which has not begun yet, when left out.

        Raises:
            OutOfTime: When it is too late.
        """
        reason = self.late(rest_from or step, now)
        if reason:
            raise OutOfTime(
                "there is no time left to go live and still be able to go back within the window",
                where=step,
                expected=f"to be live before {_clock_time(self.deadline)}: the window ends at {_clock_time(self.end)}, and "
                f"going back takes {self.rollback_seconds / 60:.1f} minutes plus a margin",
                found=reason,
                do="The run goes back by itself. Plan a longer window, or find out which step took so long.",
            )


def read(events: list[Event]) -> Clock | None:
    """Return the clock of a run from its events; None for a run that opened without one."""
    for event in reversed(events):
        if event["event"] == EVENT:
            return Clock.from_event(event, events)
    return None


def _clock_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
