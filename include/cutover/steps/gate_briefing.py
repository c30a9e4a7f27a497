"""The text of a gate's question: the facts for the decision, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from include.cutover.checks import Check
from include.cutover.evidence import steady
from include.cutover.evidence.record import Event
from include.cutover.plan.model import Plan
from include.cutover.preflight import sufficiency
from include.cutover.report.words import duration, md
from include.cutover.runs import briefing as rehearsal_facts
from include.cutover.runs import clock, runbook
from include.cutover.runs.row import Point


def patience(events: list[Event], plan: Plan, now: datetime | None = None) -> timedelta:
    """Return how long the gate waits: as the plan says, but not past the deadline, after which a go does not count.

    Args:
        events: All events of the run.
        plan: The plan.
        now: The time; the current one when left out.
    """
    wanted, times = timedelta(minutes=plan.gates.response_minutes), clock.read(events)
    if times is None:
        return wanted
    return max(timedelta(seconds=1), min(wanted, times.deadline - (now or times.now())))


def open_questions(events: list[Event], plan: Plan) -> tuple[Check, ...]:
    """Return the checks that could not be made and that the plan does not accept: only a person may accept them."""
    newest = {event["step"]: event for event in events if event["event"] == "step.end"}
    checks = [Check(**check) for event in newest.values() for check in event.get("checks") or []]
    return sufficiency.judge(checks, plan.preflight.accept_unknown).open


@dataclass(frozen=True)
class Situation:
    """The facts from which the sections of a briefing are written.

    Attributes:
        gate: The gate that asks.
        events: All events of the run.
        links: Text and address of each.
        now: The time of the situation.
        given: True where that is not the present time.
    """

    gate: str
    events: list[Event]
    plan: Plan
    links: Sequence[tuple[str, str]]
    now: datetime
    given: bool = False

    def since(self, event: Event) -> float:
        """Return the seconds since an event."""
        return steady.since(event, self.now if self.given else None)

    @cached_property
    def opened(self) -> Event:
        """The event that opened the run."""
        return next(event for event in self.events if event["event"] == "run.opened")

    @cached_property
    def newest(self) -> dict[str, Event]:
        """Step → its newest end."""
        return {event["step"]: event for event in self.events if event["event"] == "step.end"}

    @cached_property
    def times(self) -> clock.Clock | None:
        """The clock of the run."""
        return clock.read(self.events)

    def with_distance(self, until: datetime) -> str:
        """Return an instant, and how far away it is."""
        seconds = (until - self.now).total_seconds()
        away = f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"
        return f"{until:%Y-%m-%d %H:%M} UTC ({away})"


def briefing(
    events: list[Event],
    plan: Plan,
    *,
    gate: str = runbook.GO_NO_GO,
    links: Sequence[tuple[str, str]] = (),
    now: datetime | None = None,
) -> str:
    """Return the facts for a decision, as Markdown: all sections that are not empty.

    Args:
        events: All events of the run.
        plan: The plan.
        gate: The gate that asks.
        links: Text and address of each.
        now: The time; the current one when left out.
    """
    situation = Situation(gate, events, plan, links, now or datetime.now(UTC), given=now is not None)
    return "\n\n".join(filter(None, ("\n".join(section(situation)) for section in SECTIONS)))


def _who_and_why(situation: Situation) -> list[str]:
    opened = situation.opened
    return [f"**{situation.plan.application}**, opened by {opened['actor']}: {md(opened['reason'])}"]


def _time_left(situation: Situation) -> list[str]:
    window_end = datetime.fromisoformat(situation.opened["window_end"])
    lines = [f"The window of {situation.plan.window.minutes} minutes ends at {situation.with_distance(window_end)}."]
    if situation.times is not None:
        if said := situation.times.disagreement():
            lines.append(f"**{said[:1].upper()}{said[1:]}.**")
        lines.append(f"A run that is not live by {situation.with_distance(situation.times.deadline)} goes back by itself.")
        measured = situation.times.measured_by
        lines.append(
            f"Going back takes {duration(situation.times.rollback_seconds)}, as "
            f"{f'the rehearsal {measured} measured' if measured else 'the plan says'}, and a margin."
        )
    return lines


def _expected_downtime(situation: Situation) -> list[str]:
    times, stopped = (
        situation.times,
        next((event for event in situation.events if event["event"] == "services.stopped"), None),
    )
    rehearsed = times.remaining if times is not None and times.measured_by is not None else {}
    lines = []
    if stopped is not None:
        lines.append(f"Down for {duration(situation.since(stopped))} now.")
    seconds = rehearsed.get(runbook.STOP_SERVICES if stopped is None else runbook.SWITCH_CONFIGURATION)
    what = "Expected downtime" if stopped is None else "Expected until it runs on PostgreSQL"
    if seconds is not None and times is not None:
        lines.append(f"{what}: {duration(seconds)}, as rehearsed by {times.measured_by}.")
    else:
        lines.append(f"{what}: not known, no rehearsal has measured it.")
    return lines


def _steps(situation: Situation) -> list[str]:
    newest = situation.newest
    copies = [event for name, event in newest.items() if runbook.is_copy(name)]
    rows = [
        (name, event["outcome"], str(event.get("summary", "")))
        for name, event in newest.items()
        if not runbook.is_copy(name)
    ]
    if copies:
        outcome = "passed" if all(event["outcome"] == "passed" for event in copies) else "failed"
        moved = sum(int((event.get("figures") or {}).get("rows", 0)) for event in copies)
        rows.append((runbook.COPY, outcome, f"{moved:,} rows in {len(situation.plan.tables)} tables"))
    lines = ["| step | outcome | what was found |", "|---|---|---|"]
    return lines + [f"| {name} | {outcome} | {md(summary)} |" for name, outcome, summary in rows]


def _checks(situation: Situation) -> list[str]:
    found = Counter(check["outcome"] for event in situation.newest.values() for check in event.get("checks") or [])
    return [f"Checks: {found['passed']:,} passed, {found['failed']} failed, {found['unknown']} could not be made."]


def _findings(situation: Situation) -> list[str]:
    figures = situation.newest.get(runbook.ASSESS_SOURCE, {}).get("figures") or {}
    if "rows" not in figures:
        return []
    text = f"{figures['rows']:,} rows of the source were checked: {figures.get('blocks', 0)} findings block"
    return [f"{text}, the plan decides {figures.get('decided', 0)}, {figures.get('notes', 0)} are notes."]


def _rehearsal(situation: Situation) -> list[str]:
    facts = rehearsal_facts.facts(situation.events)
    return ["**Rehearsal:**", "", *(f"- {label}: {md(text)}" for label, text in facts)] if facts else []


def _warnings(situation: Situation) -> list[str]:
    warnings = dict.fromkeys(warning for event in situation.newest.values() for warning in event.get("warnings") or [])
    lines = ["**Warnings; a go accepts them:**", ""]
    return lines + [f"- {md(warning)}" for warning in warnings] if warnings else []


def _unknown(situation: Situation) -> list[str]:
    unknown = open_questions(situation.events, situation.plan)
    lines = ["**Checks that could not be made; a go accepts them:**", ""]
    return lines + [f"- {md(check.title)}: {md(check.found)} {md(check.do)}" for check in unknown] if unknown else []


def _links(situation: Situation) -> list[str]:
    return [" · ".join(f"[{text}]({address})" for text, address in situation.links)] if situation.links else []


def _no_answer(situation: Situation) -> list[str]:
    minutes = patience(situation.events, situation.plan, situation.now).total_seconds() / 60
    then = (
        "the run goes back to SQLite by itself"
        if runbook.row_of(situation.gate).required is Point.STAY_LIVE
        else "nothing is stopped, the run is called off"
    )
    return [f"No answer within {minutes:.3g} minutes means no-go: {then}."]


SECTIONS: Sequence[Callable[[Situation], list[str]]] = (
    _who_and_why,
    _time_left,
    _expected_downtime,
    _steps,
    _checks,
    _findings,
    _rehearsal,
    _warnings,
    _unknown,
    _links,
    _no_answer,
)
"""The sections of a briefing in their order. One that returns nothing is left out."""
