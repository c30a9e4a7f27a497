"""A call of a function that belongs to no run of a cutover, and its two ways of doing nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from include.cutover.steps.step import Caller, Ends


class NotYet(Exception):
    """Raised when there is nothing to do before ``until``; the caller frees its worker and comes back then."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"not before {until.isoformat(timespec='seconds')}")
        self.until = until


class NotNeeded(Exception):
    """Raised when there is nothing to do at all."""


@dataclass(frozen=True)
class Call:
    """One call of a function.

    Attributes:
        plan: The plan's name.
        caller: The DAG run that calls.
        ends: Access to source, target, hosts and people.
    """

    plan: str
    caller: Caller
    ends: Ends
