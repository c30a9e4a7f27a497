"""Results of rehearsals: schema, plan, SQL and code, outcome, and the time of each step.

A rehearsal leaves evidence as a cutover does, in a folder apart. Everything here is read from that evidence. Times that a
rehearsal cannot measure, because it leaves the application alone, come from the newest real run that has them, else from
the limits of the plan, and are labelled as such.
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
from include.cutover.evidence import steady
from include.cutover.evidence.record import REHEARSALS, Event, Evidence, rehearsals, runs
from include.cutover.plan.application import Service
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook, schema_drift
from include.cutover.runs.clock import Measured
from include.cutover.runs.row import Limit, Span
from include.cutover.runs.verdict import ever_passed, has_passed, newest

EVENT = "rehearsal"
"""The event with which a cutover records the rehearsals before it."""

DATABASE = "rehearsal.database"
GREEN, RED = "rehearsed", "rehearsal_failed"
"""Outcomes of a rehearsal."""

FIRST_DOWN, LAST_PROVEN = runbook.FENCE_SOURCE, runbook.MARK_TARGET
FIRST_BACK, LAST_BACK = (runbook.way(runbook.REHEARSED_BACK)[at].name for at in (0, -1))
"""First and last step of what a cutover does while the services are down, forward and back."""

SPREAD = 10
"""Number of newest rehearsals that the spread of times is taken from."""

_CLOCKS_APART = timedelta(minutes=5)

_RELEVANT = (
    "target_schema", "target_fence", "tables", "ignored_tables", "source_objects", "preflight", "extras", "access",
)  # fmt: skip


def series(plan: str) -> str:
    """Return the folder of a plan's rehearsals below the evidence root."""
    return f"{REHEARSALS}/{plan}"


def of_plan(plan: Plan) -> str:
    """Return the SHA-256 over the parts of a plan that a rehearsal tries; people, texts, times and places are left out."""
    content = plan.model_dump(mode="json", include=set(_RELEVANT))
    content["connections"] = [plan.connections.source, plan.connections.target]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(events: Sequence[Event], plan: str) -> dict[str, str]:
    """Return the fingerprints of schema, plan, SQL and code of a run; each is empty while it is not known.

    Args:
        events: Events of a cutover or a rehearsal.
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
    """One rehearsal that was closed.

    Attributes:
        run_id: Its run id.
        folder: Folder of its evidence.
        when: When it was closed, UTC.
        result: ``green``, or ``red`` with ``first_failure``.
        fingerprint: See ``fingerprint``.
        rows: By table, the rows in its backup.
        source_bytes: Size of the clone.
        findings: Checks that did not pass, and warnings: a sentence, by a name that stays the same when numbers change.
        seconds: By step, the seconds that it took.
        down: Seconds from the fence to the end of the proof; None where it was not reached.
        back: Seconds of the way back, from the target's schema to the restored file; None where it was not reached.
        begins: By step, the seconds from its begin to the end of the proof.
        first_failure: The first failure in one sentence; empty for a green one.
        kept: The disposable database, if it was kept.
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
        """True when every step passed, including the way back."""
        return self.result == "green"

    def differs(self, other: Mapping[str, str]) -> list[str]:
        """List which of schema, plan, SQL and code differ from ``other``."""
        return [name for name, value in self.fingerprint.items() if not value or other.get(name) != value]


def of(evidence: Evidence) -> Rehearsal | None:
    """Return the rehearsal of that evidence, None while it is open, or if it never opened.

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
    """Times that a rehearsal measured, see ``Rehearsal``."""

    down: float | None
    back: float | None
    begins: Mapping[str, float]


def spans(events: Sequence[Event]) -> Spans:
    """Measure the time between the records, so that the time between two steps counts too; see ``steady``.

    Nothing is measured where the clock was set and the elapsed time is not known: the plan's times hold then.
    """
    if any(not jump.exact for jump in steady.jumps(events)):
        return Spans(None, None, {})
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
    """Return every check that did not pass and every warning of the steps' newest ends: a sentence, by a stable name."""
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
    """List the evidence of all rehearsals of a plan that opened, oldest first."""
    return [item for item in rehearsals(plan) if item.last("run.opened") is not None]


def ended(plan: str) -> list[Rehearsal]:
    """List all closed rehearsals of a plan, newest first."""
    found = [item for evidence in evidences(plan) if (item := of(evidence)) is not None]
    return sorted(found, key=lambda item: item.when, reverse=True)


def latest(plan: str, *, green: bool = False) -> Rehearsal | None:
    """Return the newest closed rehearsal of a plan; with ``green``, the newest in which every step passed."""
    return next((item for item in ended(plan) if item.green or not green), None)


# --- expected times of a cutover ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimePart:
    """A part of an expected time: its name, its seconds, and the source of that figure."""

    what: str
    seconds: float
    known: str


@dataclass(frozen=True)
class ExpectedTime:
    """The expected time of a cutover or its way back, by rehearsals.

    Attributes:
        seconds: By the newest of them, with the parts that it could not measure.
        low: The shortest of ``runs`` rehearsals of the same fingerprint.
        high: The longest of them.
        runs: Their number.
        parts: The summands of ``seconds``.
    """

    seconds: float
    low: float
    high: float
    runs: int
    parts: tuple[TimePart, ...]


REHEARSED, LIMIT = "rehearsed", "at most, by the plan's limits"


def downtime(plan: Plan, rehearsals: Sequence[Rehearsal]) -> ExpectedTime | None:
    """Return the expected time without services, without the wait at the gate. None where no rehearsal got that far.

    Args:
        plan: The plan.
        rehearsals: Green ones of the same fingerprint, newest first.
    """
    measured = [item.down for item in rehearsals if item.down is not None][:SPREAD]
    return _expected("from the fence to the proof", measured, _unmeasured(plan, Span.DOWN))


def rollback_time(plan: Plan, rehearsals: Sequence[Rehearsal]) -> ExpectedTime | None:
    """Return the expected time of the whole way back, as for ``downtime``."""
    measured = [item.back for item in rehearsals if item.back is not None][:SPREAD]
    return _expected("target set aside, backup restored", measured, _unmeasured(plan, Span.BACK))


def _expected(what: str, measured: Sequence[float], others: Sequence[TimePart]) -> ExpectedTime | None:
    if not measured:
        return None
    more = sum(part.seconds for part in others)
    parts = (TimePart(what, measured[0], REHEARSED), *others)
    return ExpectedTime(measured[0] + more, min(measured) + more, max(measured) + more, len(measured), parts)


def measured(plan: Plan) -> Measured | None:
    """Return the times of the newest green rehearsal, for the clock. None where there is none."""
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


def _unmeasured(plan: Plan, span: Span) -> list[TimePart]:
    """Return the parts that a rehearsal leaves out, as the newest real run measured them, else by the plan's limits."""
    past = [run.events() for run in reversed(runs(plan.name))]
    parts = []
    for row in runbook.unmeasured(span):
        step, what = row.name, row.name.rpartition(".")[2].replace("_", " ")
        events = next((events for events in past if ever_passed(events, step)), None)
        if events is None:
            parts.append(TimePart(what, sum((_limit(plan, limit) for limit in row.limits), 0.0), LIMIT))
            continue
        opened = _last(events, "run.opened")
        end = next(
            event
            for event in reversed(events)
            if event["event"] == "step.end" and event.get("step") == step and event.get("outcome") == "passed"
        )
        parts.append(TimePart(what, float(end.get("seconds") or 0), f"as in the run {opened.get('run_id')}"))
    return parts


def _limit(plan: Plan, limit: Limit) -> float:
    """Return a limit of the plan, in seconds."""
    if limit is Limit.STOP:
        return _together(plan.services, lambda service: service.stop_seconds)
    if limit is Limit.START:
        return _together(plan.services, lambda service: service.start_seconds)
    return float(plan.smoke_tests.seconds) if plan.smoke_tests is not None else 0.0


def _together(services: Sequence[Service], seconds: Any) -> float:
    """Add up the limits of services: they get their orders side by side, except those that must be waited for."""
    waited = [float(seconds(service)) for service in services if service.wait]
    return sum(waited) + max((float(seconds(service)) for service in services if not service.wait), default=0.0)


# --- before a cutover ---------------------------------------------------------------------------------------------------


def facts(plan: Plan, mine: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts that a cutover records about the rehearsals before it, for its gates, report and deadline.

    Args:
        plan: The plan.
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


def _as_dict(expected: ExpectedTime) -> dict[str, Any]:
    return {
        "seconds": round(expected.seconds, 1),
        "low": round(expected.low, 1),
        "high": round(expected.high, 1),
        "runs": expected.runs,
        "parts": [[part.what, round(part.seconds, 1), part.known] for part in expected.parts],
    }


def check(plan: Plan, recorded: Mapping[str, Any], now: datetime | None = None) -> Check | None:
    """Check that the rehearsal required by the plan exists; None where the plan requires none.

    Args:
        plan: The plan.
        recorded: The result of ``facts``.
        now: The instant to decide for; the current one when left out.
    """
    if not plan.require_rehearsal:
        return None
    now, green = now or datetime.now(UTC), recorded.get("green")
    within = timedelta(days=plan.rehearsal_days)
    age = None if green is None else now - datetime.fromisoformat(green["at"])
    fresh = age is not None and -_CLOCKS_APART <= age <= within
    if recorded.get("run_id") is None:
        found = "no rehearsal at all"
    elif green is None:
        changed = f", and since then changed: {', '.join(recorded['differs'])}" if recorded["differs"] else ""
        found = f"the last one, {recorded['run_id']} at {recorded['at'][:16]} UTC, was {recorded['result']}{changed}"
    else:
        found = f"{green['run_id']} at {green['at'][:16]} UTC"
        if age is not None and age < -_CLOCKS_APART:
            found += f", and it is {now:%Y-%m-%d %H:%M} UTC: the clock has gone back since then"
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
    """Return the time of the newest begin or end of a step that passed."""
    if not has_passed(events, step):
        return None
    if kind == "step.end":
        found = newest(events, step)
    else:
        found = next((event for event in reversed(events) if event["event"] == kind and event.get("step") == step), None)
    even = zip(events, steady.moments(events), strict=True)
    return next((moment for event, moment in even if event is found), None)
