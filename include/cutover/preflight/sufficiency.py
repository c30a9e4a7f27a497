"""Decides whether checks are enough to go on. A check that could not be made is never a pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from include.cutover.checks import Check


@dataclass(frozen=True)
class Sufficiency:
    """The judgement of checks.

    Attributes:
        outcome: ``stop`` when a check failed; ``ask`` when one could not be made and only the lead may accept that; else
            ``enough``.
        failed: Checks that failed.
        open: Checks that could not be made and that the plan does not accept.
        accepted: Checks that could not be made, which the plan accepts.
    """

    outcome: Literal["enough", "ask", "stop"]
    failed: tuple[Check, ...]
    open: tuple[Check, ...]
    accepted: tuple[Check, ...]


def judge(checks: Sequence[Check], accept_unknown: Collection[str]) -> Sufficiency:
    """Compare checks with the names that the plan accepts, ``preflight.accept_unknown``. No checks are never enough."""
    failed = tuple(check for check in checks if check.outcome == "failed")
    unknown = [check for check in checks if check.outcome == "unknown"]
    left = tuple(check for check in unknown if check.name not in accept_unknown)
    accepted = tuple(check for check in unknown if check.name in accept_unknown)
    if failed:
        return Sufficiency("stop", failed, left, accepted)
    return Sufficiency("ask" if left or not checks else "enough", failed, left, accepted)
