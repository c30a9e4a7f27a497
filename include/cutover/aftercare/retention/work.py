"""One call of retention: its plan, its evidence and its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from include.cutover.evidence.record import Evidence
from include.cutover.plan.model import Plan


@dataclass(frozen=True)
class Work:
    """One call of retention.

    Attributes:
        evidence: Retention's own.
        dry_run: Change and record nothing.
        now: The time that it compares with.
    """

    plan: Plan
    evidence: Evidence
    dry_run: bool
    now: datetime

    def older(self, moment: str, days: float) -> bool:
        """Return True when that many days or more have passed since the moment."""
        return self.now - datetime.fromisoformat(moment) >= timedelta(days=days)
