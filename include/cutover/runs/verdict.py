"""The next move of a run, read from its evidence: go on, abandon, release or roll back.

Pure functions over events. An event that is not recorded did not happen: missing evidence never means "go on".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from include.cutover.evidence.record import Event
from include.cutover.runs import runbook
from include.cutover.runs.row import Point
from include.cutover.runs.terms import ABANDON, FORWARD, GO_LIVE, LIVE, RELEASE, ROLLBACK, SWITCHING

Outcome = Literal["go_on", "abandon", "release", "rollback"]

GO = "Go"
NO_GO = "No-go"


@dataclass(frozen=True)
class Decision:
    """The next move and its reasons, in sentences for a person."""

    outcome: Outcome
    why: tuple[str, ...]


def newest(events: Sequence[Event], step: str) -> Event | None:
    """Return the newest begin or end of a step. A try that was refused before it began does not count."""
    found: Event | None = None
    for event in events:
        if event["event"] not in ("step.begin", "step.end") or event.get("step") != step:
            continue
        began = found is not None and found["event"] == "step.begin"
        if event.get("outcome") == "refused" and not began and found is not None:
            continue
        found = event
    return found


def has_passed(events: Sequence[Event], step: str) -> bool:
    """Report whether the newest record of a step is an end that passed: a later begin cancels an earlier pass."""
    event = newest(events, step)
    return event is not None and event["event"] == "step.end" and event.get("outcome") == "passed"


def passed_in_turn(events: Sequence[Event], steps: Sequence[str]) -> bool:
    """Report whether all passed, each after the one before it: behind a step that ran again, all must run again."""
    ends = [newest(events, step) for step in steps]
    return all(has_passed(events, step) for step in steps) and ends == sorted(ends, key=lambda end: end["seq"] if end else 0)


def has_begun(events: Sequence[Event], step: str) -> bool:
    """Report whether a step ever began, however it ended."""
    return any(event["event"] == "step.begin" and event.get("step") == step for event in events)


def ever_passed(events: Sequence[Event], step: str) -> bool:
    """Report whether a step passed at least once; for facts that stay true afterwards, such as a verified backup."""
    return any(
        event["event"] == "step.end" and event.get("step") == step and event.get("outcome") == "passed" for event in events
    )


def gate_answer(events: Sequence[Event], gate: str) -> Event | None:
    """Return the newest recorded answer of a gate."""
    for event in reversed(events):
        if event["event"] == "gate" and event.get("gate") == gate:
            return event
    return None


def gate_is_open(events: Sequence[Event], gate: str, entitled: Collection[str]) -> bool:
    """Report whether the newest answer is a go by an entitled person, or an automatic one that the plan allowed."""
    answer = gate_answer(events, gate)
    if answer is None or answer.get("answer") != GO:
        return False
    return bool(answer.get("automatic")) or answer.get("by") in entitled


def course(events: Sequence[Event]) -> str:
    """Return the course of a run: ``forward`` until the first branch, then ``go_live``, ``switching`` and ``live``.

    Or the way back that was chosen, which is final: ``abandon``, ``release`` or ``rollback``. A rollback that a person asked
    for takes precedence over every decision.
    """
    if has_begun(events, runbook.first_of(ROLLBACK)) or any(
        event["event"] in ("rollback.asked", "reopened") for event in events
    ):
        return ROLLBACK
    found = FORWARD
    for event in events:
        if event["event"] == "decision":
            if event["outcome"] != "go_on":
                return str(event["outcome"])
            found = LIVE if found == LIVE or decides_live(event) else GO_LIVE
    return SWITCHING if found == GO_LIVE and has_begun(events, runbook.first_of(GO_LIVE)) else found


def decides_live(decision: Event) -> bool:
    """Report whether a decision is the one after going live."""
    row = runbook.find(decision["at"])
    return row is not None and row.decides is Point.STAY_LIVE


def has_touched(events: Sequence[Event]) -> bool:
    """Report whether the run may have changed anything of the application, and so needs a way back."""
    return any(has_begun(events, step) for step in runbook.touching())


def has_backup(events: Sequence[Event]) -> bool:
    """Report whether the run has a verified backup."""
    return ever_passed(events, runbook.TAKE_BACKUP)


def late(events: Sequence[Event]) -> str:
    """Return why a step or a gate's answer came too late; empty where none did, or where it passed later."""
    for event in reversed(events):
        if event["event"] == "late" and not has_passed(events, event["step"]):
            return str(event["reason"])
    return ""


_NO_END = "began and never ended"
_NEVER = ("has not run", "was not answered")


def _overtaken(events: Sequence[Event], later: Mapping[str, Collection[str]]) -> list[str]:
    """Return the steps that passed before a step on which they depend ran again."""
    found = []
    for step, before in later.items():
        begin = max(
            (event["seq"] for event in events if event["event"] == "step.begin" and event.get("step") == step), default=0
        )
        for earlier in before:
            event = newest(events, earlier)
            if begin and event is not None and event["seq"] > begin:
                found.append(f"{step} passed before {earlier} ran again")
    return found


def last_word(events: Sequence[Event], step: str) -> str:
    """Describe the newest record of a step, in words that follow its name."""
    event = newest(events, step)
    if event is None:
        return _NEVER[0]
    if event["event"] == "step.begin":
        return _NO_END
    return (
        "passed" if event.get("outcome") == "passed" else f"{event.get('outcome')}: {event.get('summary') or 'no summary'}"
    )


def decide(
    events: Sequence[Event],
    *,
    required: Sequence[str],
    gates: Sequence[str],
    entitled: Collection[str],
    changed: Collection[str] = (),
    late: str = "",
    later: Mapping[str, Collection[str]] | None = None,
) -> Decision:
    """Decide how a cutover continues from a branch.

    Args:
        events: All events of the run.
        required: Steps whose newest record must be a pass.
        gates: Gates that must have been answered with a go.
        entitled: User names whose answer counts.
        changed: Names of those of plan, SQL files and code that changed since the run opened.
        late: Why there is no time left to go live; empty while there is.
        later: Step → steps that must have ended before it began, such as a proof and the writes that it proves.

    Returns:
        ``go_on`` only when nothing is missing. Otherwise ``abandon`` while nothing of the application was touched,
        ``release`` while there is no verified backup (the source is the truth and is not overwritten), else ``rollback``.
    """
    why = [f"there is no time left to go live: {late}"] if late else []
    for gate in gates:
        if not gate_is_open(events, gate, entitled):
            answer = gate_answer(events, gate)
            found = (
                _NEVER[1]
                if answer is None
                else f"was answered {answer.get('answer')} by {answer.get('by') or 'the time limit'}"
            )
            if answer is not None and answer.get("late"):
                found = f"was answered too late by {answer.get('by')}"
            why.append(f"the gate {gate} {found}")
    why += [f"{step} {last_word(events, step)}" for step in required if not has_passed(events, step)]
    why += [f"the {name} changed since the run opened" for name in changed]
    why += _overtaken(events, later or {})
    if not why:
        return Decision("go_on", ("every step before this one passed",))
    # Failures first, then steps still at work, then steps that therefore never ran.
    why.sort(key=lambda reason: 1 + reason.endswith(_NEVER) if reason.endswith((*_NEVER, _NO_END)) else 0)
    if not has_touched(events):
        return Decision(ABANDON, tuple(why))
    return Decision(ROLLBACK if has_backup(events) else RELEASE, tuple(why))
