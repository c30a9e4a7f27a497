"""What happens next, read from the evidence: go on, abandon, release or roll back.

Pure functions over events. Whatever is not recorded did not happen: missing evidence never means "go on".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from include.cutover.evidence import Event

Outcome = Literal["go_on", "abandon", "release", "rollback"]

GO = "Go"
NO_GO = "No-go"


@dataclass(frozen=True)
class Decision:
    """What to do and why, in sentences for a person."""

    outcome: Outcome
    why: tuple[str, ...]


def newest(events: Sequence[Event], step: str) -> Event | None:
    """The newest begin or end of a step."""
    for event in reversed(events):
        if event["event"] in ("step.begin", "step.end") and event.get("step") == step:
            return event
    return None


def has_passed(events: Sequence[Event], step: str) -> bool:
    """Whether the newest record of a step is an end that passed: a later begin takes an earlier pass back."""
    event = newest(events, step)
    return event is not None and event["event"] == "step.end" and event.get("outcome") == "passed"


def has_begun(events: Sequence[Event], step: str) -> bool:
    """Whether a step ever began, whatever became of it."""
    return any(event["event"] == "step.begin" and event.get("step") == step for event in events)


def ever_passed(events: Sequence[Event], step: str) -> bool:
    """Whether a step passed at least once; for what stays true afterwards, such as a verified backup."""
    return any(
        event["event"] == "step.end" and event.get("step") == step and event.get("outcome") == "passed" for event in events
    )


def gate_answer(events: Sequence[Event], gate: str) -> Event | None:
    """The newest recorded answer of a gate."""
    for event in reversed(events):
        if event["event"] == "gate" and event.get("gate") == gate:
            return event
    return None


def gate_is_open(events: Sequence[Event], gate: str, entitled: Collection[str]) -> bool:
    """Whether the newest answer is a go by somebody entitled, or an automatic one that the plan allowed."""
    answer = gate_answer(events, gate)
    if answer is None or answer.get("answer") != GO:
        return False
    return bool(answer.get("automatic")) or answer.get("by") in entitled


_NO_END = "began and never ended"
_NEVER = ("has not run", "was not answered")


def _missing(events: Sequence[Event], step: str) -> str:
    event = newest(events, step)
    if event is None:
        return f"{step} {_NEVER[0]}"
    if event["event"] == "step.begin":
        return f"{step} {_NO_END}"
    return f"{step} {event.get('outcome')}: {event.get('summary') or 'no summary'}"


def decide(
    events: Sequence[Event],
    *,
    required: Sequence[str],
    gates: Sequence[str],
    entitled: Collection[str],
    changed: Collection[str] = (),
) -> Decision:
    """The way on from a branch of a cutover.

    Args:
        events: All events of the run.
        required: Steps whose newest record must be a pass.
        gates: Gates that must have been answered with a go.
        entitled: User names whose answer counts.
        changed: What belongs to the run and is not as it was when the run opened.

    Returns:
        ``go_on`` only when nothing is missing. Otherwise: ``abandon`` while no service was ever told to stop, ``release``
        while there is no verified backup (the source is the truth and is not overwritten), else ``rollback``.
    """
    why = []
    for gate in gates:
        if not gate_is_open(events, gate, entitled):
            answer = gate_answer(events, gate)
            found = _NEVER[1] if answer is None else f"was answered {answer.get('answer')} by {answer.get('by') or 'nobody'}"
            why.append(f"the gate {gate} {found}")
    why += [_missing(events, step) for step in required if not has_passed(events, step)]
    why += [f"the {name} changed since the run opened" for name in changed]
    if not why:
        return Decision("go_on", ("every step before this one passed",))
    # What failed says more than what was still at work, and that more than what therefore never ran.
    why.sort(key=lambda reason: 1 + reason.endswith(_NEVER) if reason.endswith((*_NEVER, _NO_END)) else 0)
    if not has_begun(events, "stop_services"):
        return Decision("abandon", tuple(why))
    if not ever_passed(events, "take_backup"):
        return Decision("release", tuple(why))
    return Decision("rollback", tuple(why))
