"""The conditions under which a step may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FORWARD: Final = "forward"
GO_LIVE: Final = "go_live"
SWITCHING: Final = "switching"
LIVE: Final = "live"
ABANDON: Final = "abandon"
RELEASE: Final = "release"
ROLLBACK: Final = "rollback"
"""The courses of a run; see ``verdict.course``."""


@dataclass(frozen=True)
class Terms:
    """When a step may run.

    Attributes:
        gate: Gate whose recorded go, by an entitled person, it needs.
        opens: It makes the run itself, so there is no lease to check yet.
        closes: It also runs when the lease is lost or the run is sealed; it decides what that means.
        way_back: It also runs when the plan, its SQL or the code changed since the run opened, and again when the run was
            closed before its way back was complete: going back must work. No other step is in flight beside it.
        on_full_disk: It also runs on a full disk, as ``way_back`` and ``closes`` do.
        course: Courses of the run on which it may run, by the recorded decisions (see ``verdict.course``); empty for any.
        after: Steps that must have passed by their record; Airflow's word that they did is not enough.
        in_turn: The same, and each of them after the one before it.
        touched: The run must have changed something of the application: else there is nothing to go back from.
        in_time: It refuses past the deadline, and when the rest does not fit any more: a step before a point of no return.
    """

    gate: str | None = None
    opens: bool = False
    closes: bool = False
    way_back: bool = False
    on_full_disk: bool = False
    course: Sequence[str] = (FORWARD, GO_LIVE)
    after: Sequence[str] = ()
    in_turn: Sequence[str] = ()
    touched: bool = False
    in_time: bool = False

    @property
    def must_run(self) -> bool:
        """True for a step that a full disk must not stop."""
        return self.way_back or self.closes or self.on_full_disk
