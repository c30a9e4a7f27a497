"""The clock of a run: when its window begins and ends, and until when going live is still right.

Going back takes time, too. The deadline is the end of the window less the time that a rollback takes, with a margin: a run
that is not live by then goes back, so that the application runs again when the window ends, one way or the other. What a
rehearsal has measured also says how long the rest takes: a run for which that no longer fits does not wait for the deadline.

The figures are computed once, when the run opens, and read from the evidence by every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from include.cutover.errors import Refused
from include.cutover.evidence.record import Event
from include.cutover.plan.model import Window

EVENT = "clock"


class OutOfTime(Refused):
    """Going on would leave no time to go back. The run goes back by itself."""


@dataclass(frozen=True)
class Measured:
    """What a rehearsal took, in seconds.

    Attributes:
        run_id: The rehearsal.
        rollback: The whole way back.
        remaining: Step → from its beginning to the services running on the target.
    """

    run_id: str
    rollback: float
    remaining: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """The instants of a run, UTC.

    Attributes:
        freeze: From here on nothing but the run changes the application.
        deadline: The last instant at which going on is better than going back.
        rollback_seconds: How long going back takes, without the margin.
        measured_by: The rehearsal that the figures come from; None where they are the plan's.
        remaining: As in ``Measured``; empty where nothing was measured.
    """

    freeze: datetime
    start: datetime
    end: datetime
    deadline: datetime
    rollback_seconds: float
    measured_by: str | None = None
    remaining: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, window: Window, start: datetime, measured: Measured | None = None) -> Clock:
        """The clock of a window that begins at ``start``."""
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
    def from_event(cls, event: Event) -> Clock:
        """The clock as the evidence holds it."""
        freeze, start, end, deadline = (
            datetime.fromisoformat(event[name]) for name in ("freeze", "start", "end", "deadline")
        )
        return cls(freeze, start, end, deadline, event["rollback_seconds"], event["measured_by"], event["remaining"])

    def after(self, part: float) -> datetime:
        """The instant when that part of the window is over, 0 to 1."""
        return self.start + part * (self.end - self.start)

    def as_fields(self) -> dict[str, Any]:
        """For the evidence."""
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()}

    def late(self, step: str, now: datetime | None = None) -> str:
        """Why ``step`` must not begin any more, as a sentence; empty while it may."""
        now = now or datetime.now(UTC)
        if now >= self.deadline:
            return f"the deadline was {_clock_time(self.deadline)} and it is {_clock_time(now)}"
        ready = now + timedelta(seconds=self.remaining.get(step, 0.0))
        if ready >= self.deadline:
            minutes = self.remaining[step] / 60
            return (
                f"the rest takes {minutes:.1f} minutes, as rehearsed by {self.measured_by}: until {_clock_time(ready)}, "
                f"and the deadline is {_clock_time(self.deadline)}"
            )
        return ""

    def require_in_time(self, step: str, now: datetime | None = None, *, rest_from: str | None = None) -> None:
        """Go on only while there is time.

        Args:
            rest_from: The step that the rest begins with; ``step`` itself, which has not begun yet, when left out.

        Raises:
            OutOfTime: When there is not.
        """
        reason = self.late(rest_from or step, now)
        if reason:
            raise OutOfTime(
                "there is no time left to go live and still to be able to go back within the window",
                where=step,
                expected=f"to be live before {_clock_time(self.deadline)}: the window ends at {_clock_time(self.end)}, and "
                f"going back takes {self.rollback_seconds / 60:.1f} minutes and a margin",
                found=reason,
                do="The run goes back by itself. Plan a longer window, or find out what took so long.",
            )


def read(events: list[Event]) -> Clock | None:
    """The clock of a run from its evidence; None for a run that opened without one."""
    for event in reversed(events):
        if event["event"] == EVENT:
            return Clock.from_event(event)
    return None


def _clock_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
