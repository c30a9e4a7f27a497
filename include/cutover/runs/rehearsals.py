"""What rehearsals found: when, on which schema, plan, SQL and code, with which result, and how long each step took.

A rehearsal leaves evidence as a cutover does, in a folder where nobody takes it for one. Everything here is read from that
evidence. What a rehearsal cannot measure, because it leaves the application alone, is taken from the newest real run that
did it, or else from the limits of the plan, and is named as what it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.cutover.checks import Check
from include.cutover.evidence.record import REHEARSALS, Event, Evidence, rehearsals, runs
from include.cutover.plan.application import Service
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook, schema_drift
from include.cutover.runs.clock import Measured
from include.cutover.runs.row import Limit, Span
from include.cutover.runs.verdict import ever_passed, has_passed, newest

EVENT = "rehearsal"
"""What a cutover found out about the rehearsals before it."""

DATABASE = "rehearsal.database"
GREEN, RED = "rehearsed", "rehearsal_failed"
"""How a rehearsal ends."""

FIRST_DOWN, LAST_PROVEN = runbook.FENCE_SOURCE, runbook.MARK_TARGET
FIRST_BACK, LAST_BACK = (runbook.way(runbook.REHEARSED_BACK)[at].name for at in (0, -1))
"""Between these a rehearsal does what a cutover does while the services rest."""

SPREAD = 10
"""Newest rehearsals that the spread is told of."""

_RELEVANT = (
    "target_schema", "target_fence", "tables", "ignored_tables", "source_objects", "preflight", "extras", "access",
)  # fmt: skip


def series(plan: str) -> str:
    """Folder of a plan's rehearsals below the evidence root."""
    return f"{REHEARSALS}/{plan}"


def of_plan(plan: Plan) -> str:
    """SHA-256 over what a rehearsal tries of a plan; people, texts, times and places are left out."""
    content = plan.model_dump(mode="json", include=set(_RELEVANT))
    content["connections"] = [plan.connections.source, plan.connections.target]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(events: Sequence[Event], plan: str) -> dict[str, str]:
    """Of schema, plan, SQL and code, for a cutover or a rehearsal; empty where it has not looked at its source.

    Args:
        plan: The result of ``of_plan``.
    """
    hashes = _last(events, "run.opened").get("fingerprints") or {}
    return {
        "schema": str(_last(events, schema_drift.EVENT).get("fingerprint") or ""),
        "plan": plan,
        "SQL": str(hashes.get("sql") or ""),
        "code": str(hashes.get("code") or ""),
    }


@dataclass(frozen=True)
class Rehearsal:
    """One rehearsal that came to its end.

    Attributes:
        when: When it was closed, UTC.
        result: ``green``, or ``red`` with ``first_failure``.
        fingerprint: See ``fingerprint``.
        rows: Table → rows in its backup.
        source_bytes: Size of the clone.
        findings: What did not pass and what was warned of, by a name that stays when numbers change → a sentence.
        seconds: Step → how long it took.
        down: From the fence to the end of the proof, the way to go live included as far as it goes; None where not reached.
        back: The way back, from the target's schema to the restored file; None where not reached.
        begins: Step → from its beginning to the end of the proof.
        kept: The disposable database where it was kept.
    """

    run_id: str
    folder: Path
    when: datetime
    result: str
    fingerprint: Mapping[str, str]
    rows: Mapping[str, int]
    source_bytes: int
    findings: Mapping[str, str]
    seconds: Mapping[str, float]
    down: float | None = None
    back: float | None = None
    begins: Mapping[str, float] = field(default_factory=dict)
    first_failure: str = ""
    kept: str = ""

    @property
    def green(self) -> bool:
        """Whether everything passed, the way back included."""
        return self.result == "green"

    def differs(self, other: Mapping[str, str]) -> list[str]:
        """Which of schema, plan, SQL and code are not those of ``other``."""
        return [name for name, value in self.fingerprint.items() if not value or other.get(name) != value]


def of(evidence: Evidence) -> Rehearsal | None:
    """The rehearsal of that evidence, None while it is open, or where it never opened.

    Raises:
        CannotCheck: When the evidence is damaged.
    """
    events = evidence.events()
    sealed, opened = _last(events, "sealed"), _last(events, "run.opened")
    if not sealed or not opened:
        return None
    ends = {event["step"]: event for event in events if event["event"] == "step.end"}
    measured = spans(events)
    taken = (ends.get(runbook.TAKE_BACKUP) or {}).get("figures") or {}
    database = _last(events, DATABASE)
    return Rehearsal(
        run_id=str(opened["run_id"]),
        folder=evidence.folder,
        when=datetime.fromisoformat(sealed["time"]),
        result="green" if sealed["outcome"] == GREEN else "red",
        fingerprint=fingerprint(events, str(opened["rehearses"])),
        rows={str(table): int(rows) for table, rows in (taken.get("counts") or {}).items()},
        source_bytes=int(((ends.get(runbook.CLONE_SOURCE) or {}).get("figures") or {}).get("bytes") or 0),
        findings=findings(events),
        seconds={step: float(event.get("seconds") or 0) for step, event in ends.items()},
        down=measured.down,
        back=measured.back,
        begins=measured.begins,
        first_failure=str(sealed.get("why") or ""),
        kept=str(database["name"]) if database and database["state"] != "dropped" else "",
    )


@dataclass(frozen=True)
class Spans:
    """What a rehearsal measured, see ``Rehearsal``."""

    down: float | None
    back: float | None
    begins: Mapping[str, float]


def spans(events: Sequence[Event]) -> Spans:
    """By the clock between the records, so that what lies between two steps counts as well."""
    proven = _moment(events, LAST_PROVEN, "step.end")
    begins = {
        step: (proven - begin).total_seconds()
        for step in dict.fromkeys(event["step"] for event in events if event["event"] == "step.end")
        if proven is not None and (begin := _moment(events, step, "step.begin")) is not None and begin <= proven
    }
    back_from, back_to = _moment(events, FIRST_BACK, "step.begin"), _moment(events, LAST_BACK, "step.end")
    back = (back_to - back_from).total_seconds() if back_from is not None and back_to is not None else None
    return Spans(begins.get(FIRST_DOWN), back, begins)


def findings(events: Sequence[Event]) -> dict[str, str]:
    """Every check that did not pass and every warning of the steps' newest ends: a steady name → a sentence."""
    found = {}
    for event in {event["step"]: event for event in events if event["event"] == "step.end"}.values():
        for item in event.get("checks") or []:
            check = Check(**item)
            if check.outcome != "passed":
                said = f"{check.title}: {check.found or check.outcome}"
                found[f"{check.name} {check.where}"] = (
                    said if check.outcome == "failed" else f"{said} (could not be checked)"
                )
        for warning in event.get("warnings") or []:
            found[re.sub(r"\d+", "#", warning)] = warning
    return found


def evidences(plan: str) -> list[Evidence]:
    """The evidence of all rehearsals of a plan that opened, oldest first."""
    return [item for item in rehearsals(plan) if item.last("run.opened") is not None]


def ended(plan: str) -> list[Rehearsal]:
    """All rehearsals of a plan that came to their end, newest first."""
    found = [item for evidence in evidences(plan) if (item := of(evidence)) is not None]
    return sorted(found, key=lambda item: item.when, reverse=True)


def latest(plan: str, *, green: bool = False) -> Rehearsal | None:
    """The newest rehearsal of a plan that came to its end; with ``green``, the newest in which everything passed."""
    return next((item for item in ended(plan) if item.green or not green), None)


# --- what they say about a cutover --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a time: what, how many seconds, and how that is known."""

    what: str
    seconds: float
    known: str


@dataclass(frozen=True)
class Expected:
    """What a cutover will take, by its rehearsals.

    Attributes:
        seconds: By the newest of them, with what it could not measure.
        low, high: The shortest and the longest of ``runs`` rehearsals of the same fingerprint.
        parts: What ``seconds`` is the sum of.
    """

    seconds: float
    low: float
    high: float
    runs: int
    parts: tuple[Part, ...]


REHEARSED, LIMIT = "rehearsed", "at most, by the plan's limits"


def downtime(plan: Plan, rehearsals: Sequence[Rehearsal]) -> Expected | None:
    """Expected time without services; people's time at the gate is not in it. None where no rehearsal came so far.

    Args:
        rehearsals: Green ones of the same fingerprint, newest first.
    """
    measured = [item.down for item in rehearsals if item.down is not None][:SPREAD]
    return _expected("from the fence to the proof", measured, _unmeasured(plan, Span.DOWN))


def rollback_time(plan: Plan, rehearsals: Sequence[Rehearsal]) -> Expected | None:
    """The same for the whole way back."""
    measured = [item.back for item in rehearsals if item.back is not None][:SPREAD]
    return _expected("target put aside, backup put back", measured, _unmeasured(plan, Span.BACK))


def _expected(what: str, measured: Sequence[float], others: Sequence[Part]) -> Expected | None:
    if not measured:
        return None
    more = sum(part.seconds for part in others)
    parts = (Part(what, measured[0], REHEARSED), *others)
    return Expected(measured[0] + more, min(measured) + more, max(measured) + more, len(measured), parts)


def measured(plan: Plan) -> Measured | None:
    """For the clock: what the newest green rehearsal of this plan took. None where there is none."""
    found = latest(plan.name, green=True)
    back = None if found is None else rollback_time(plan, [found])
    if found is None or back is None or found.down is None:
        return None
    stop, switch, start = (part.seconds for part in _unmeasured(plan, Span.DOWN))
    remaining = {
        step: seconds + switch + start + (stop if seconds > found.down else 0.0) for step, seconds in found.begins.items()
    }
    rest = (stop + found.down + switch + start, switch + start, start)
    remaining |= {row.name: seconds for row, seconds in zip(runbook.unmeasured(Span.DOWN), rest, strict=True)}
    return Measured(found.run_id, back.seconds, remaining)


def _unmeasured(plan: Plan, span: Span) -> list[Part]:
    """What a rehearsal leaves out: as the newest real run measured it, else by the plan's limits."""
    past = [run.events() for run in reversed(runs(plan.name))]
    parts = []
    for row in runbook.unmeasured(span):
        step, what = row.name, row.name.rpartition(".")[2].replace("_", " ")
        events = next((events for events in past if ever_passed(events, step)), None)
        if events is None:
            parts.append(Part(what, sum((_limit(plan, limit) for limit in row.limits), 0.0), LIMIT))
            continue
        opened = _last(events, "run.opened")
        end = next(
            event
            for event in reversed(events)
            if event["event"] == "step.end" and event.get("step") == step and event.get("outcome") == "passed"
        )
        parts.append(Part(what, float(end.get("seconds") or 0), f"as in the run {opened.get('run_id')}"))
    return parts


def _limit(plan: Plan, limit: Limit) -> float:
    """Return a limit of the plan, in seconds."""
    if limit is Limit.STOP:
        return _together(plan.services, lambda service: service.stop_seconds)
    if limit is Limit.START:
        return _together(plan.services, lambda service: service.start_seconds)
    return float(plan.smoke_tests.seconds) if plan.smoke_tests is not None else 0.0


def _together(services: Sequence[Service], seconds: Any) -> float:
    """Services are told side by side, but for those that are waited for."""
    waited = [float(seconds(service)) for service in services if service.wait]
    return sum(waited) + max((float(seconds(service)) for service in services if not service.wait), default=0.0)


# --- before a cutover ---------------------------------------------------------------------------------------------------


def facts(plan: Plan, mine: Mapping[str, str]) -> dict[str, Any]:
    """What a cutover records about the rehearsals before it: for its gates, its report and its deadline.

    Args:
        mine: The cutover's own fingerprint.
    """
    found = ended(plan.name)
    if not found:
        return {"run_id": None}
    last = found[0]
    same = [item for item in found if item.green and not item.differs(mine)]
    expected, back = downtime(plan, same), rollback_time(plan, same)
    return {
        "run_id": last.run_id,
        "at": last.when.isoformat(timespec="seconds"),
        "result": last.result,
        "first_failure": last.first_failure,
        "schema": last.fingerprint.get("schema"),
        "plan": last.fingerprint.get("plan"),
        "differs": last.differs(mine),
        "rows": dict(last.rows),
        "bytes": last.source_bytes,
        "findings": dict(last.findings),
        "green": None
        if not same
        else {"run_id": same[0].run_id, "at": same[0].when.isoformat(timespec="seconds"), "runs": len(same)},
        "downtime": None if expected is None else _as_dict(expected),
        "rollback": None if back is None else _as_dict(back),
    }


def _as_dict(expected: Expected) -> dict[str, Any]:
    return {
        "seconds": round(expected.seconds, 1),
        "low": round(expected.low, 1),
        "high": round(expected.high, 1),
        "runs": expected.runs,
        "parts": [[part.what, round(part.seconds, 1), part.known] for part in expected.parts],
    }


def check(plan: Plan, told: Mapping[str, Any], now: datetime | None = None) -> Check | None:
    """Whether the rehearsal that the plan requires is there; None where the plan requires none."""
    if not plan.require_rehearsal:
        return None
    now, green = now or datetime.now(UTC), told.get("green")
    within = timedelta(days=plan.rehearsal_days)
    fresh = green is not None and now - datetime.fromisoformat(green["at"]) <= within
    if told.get("run_id") is None:
        found = "no rehearsal at all"
    elif green is None:
        changed = f", and since then changed: {', '.join(told['differs'])}" if told["differs"] else ""
        found = f"the last one, {told['run_id']} at {told['at'][:16]} UTC, was {told['result']}{changed}"
    else:
        found = f"{green['run_id']} at {green['at'][:16]} UTC"
    return Check(
        "rehearsal",
        "A rehearsal of the same schema, plan, SQL and code was green",
        "passed" if fresh else "failed",
        f"a green one of the last {plan.rehearsal_days:g} days",
        found.replace("T", " ") if not fresh else found,
        "" if fresh else f"Trigger rehearsal_{plan.name}; it stops nothing. Then start the cutover again.",
    )


def _last(events: Sequence[Event], kind: str) -> Event:
    return next((event for event in reversed(events) if event["event"] == kind), {})


def _moment(events: Sequence[Event], step: str, kind: str) -> datetime | None:
    """The newest begin or end of a step that passed."""
    if not has_passed(events, step):
        return None
    if kind == "step.end":
        end = newest(events, step)
        return None if end is None else datetime.fromisoformat(end["time"])
    begin = next((event for event in reversed(events) if event["event"] == kind and event.get("step") == step), None)
    return None if begin is None else datetime.fromisoformat(begin["time"])
