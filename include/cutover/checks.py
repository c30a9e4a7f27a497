"""The result of one check: passed, failed or unknown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["passed", "failed", "unknown"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: Stable identifier in snake_case, e.g. ``target_free_disk``.
        title: Plain words for the observer.
        outcome: ``unknown`` means that it could not be checked; it is never a pass.
        expected: The expected state; empty where ``found`` says it all.
        found: The found state. Never holds a secret.
        do: The next step when it did not pass.
        where: Table, file, URL or connection that was checked.
    """

    name: str
    title: str
    outcome: Outcome
    expected: str = ""
    found: str = ""
    do: str = ""
    where: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a plain dictionary for evidence and reports."""
        return asdict(self)


def worst(checks: list[Check]) -> Outcome:
    """Return the worst outcome: failed before unknown before passed. An empty list is unknown: nothing was checked."""
    outcomes = {check.outcome for check in checks}
    if "failed" in outcomes:
        return "failed"
    if "unknown" in outcomes or not outcomes:
        return "unknown"
    return "passed"
