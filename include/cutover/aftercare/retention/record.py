"""Retention's own evidence: one action is one ``Deed``, recorded before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from include.cutover.errors import Refused
from include.cutover.evidence.record import Event, Evidence, evidence_root

ARCHIVED, REMOVING, REMOVED, DROPPING, DROPPED = (
    "archived", "removing", "removed", "dropping", "dropped",
)  # fmt: skip
"""Events of retention's evidence; each names the run."""

Kind = Literal["archive", "remove", "drop"]


@dataclass(frozen=True)
class Deed:
    """One action that was done, would be done, or was not possible.

    Attributes:
        run: The run's folder name.
        what: The backup's file, or the schema.
        done: True when it was done, or would be in a dry run.
        why: Why it was left, when it was not done.
        failed: It was left although it was due and there is no reason to keep it: a person must check.
    """

    kind: Kind
    run: str
    what: str
    done: bool
    why: str = ""
    failed: bool = False

    def __str__(self) -> str:
        words = {"archive": "archived", "remove": "removed", "drop": "dropped"}
        return f"{self.run}: {self.what} {words[self.kind] if self.done else f'stays: {self.why}'}"


def evidence_of(plan: str) -> Evidence:
    """Return retention's own evidence for a plan."""
    return Evidence(evidence_root() / "retention" / plan)


def removed(plan: str, run: str) -> Event | None:
    """Return the event that says that a run's backup is removed, or being removed; None while it is kept.

    Args:
        plan: Name of the plan.
        run: The run's folder name.
    """
    evidence = evidence_of(plan)
    if not evidence.exists:
        return None
    return evidence.last(REMOVED, run=run) or evidence.last(REMOVING, run=run)


def refuse_removed(plan: str, run: str) -> None:
    """Refuse to roll back a run whose backup was removed.

    Raises:
        Refused: When retention removed it.
    """
    event = removed(plan, run)
    if event is not None:
        raise Refused(
            "the backup of this run was removed by retention, so there is nothing to roll back to",
            where=run,
            found=f"removed at {event['time'][:16].replace('T', ' ')} UTC, as the plan says",
            do="Nothing was stopped. Restore another copy of the backup by hand; see README.",
        )
