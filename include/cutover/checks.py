"""The result of looking at one thing: passed, failed or could not be checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["passed", "failed", "unknown"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: Stable identifier in snake_case, e.g. ``target_free_disk``.
        title: Plain words for the observer.
        outcome: ``unknown`` means that it could not be checked; it is never a pass.
        expected: What should be there; empty where ``found`` says it all.
        found: What was there. Never holds a secret.
        do: What to do when it is not passed.
        where: Table, file, URL or connection the check is about.
    """

    name: str
    title: str
    outcome: Outcome
    expected: str = ""
    found: str = ""
    do: str = ""
    where: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for evidence and reports."""
        return asdict(self)


def worst(checks: list[Check]) -> Outcome:
    """The outcome of a list: failed before unknown before passed. An empty list is unknown: nothing was looked at."""
    outcomes = {check.outcome for check in checks}
    if "failed" in outcomes:
        return "failed"
    if "unknown" in outcomes or not outcomes:
        return "unknown"
    return "passed"
