"""The incident that a run leaves which touched the application and did not end live: open until the lead has closed it.

No new cutover opens before that: whoever tries again must say what went wrong and what was done about it. The closing is one
event in the evidence of the run, which is sealed otherwise; the chain of its events goes on with it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from include.cutover.errors import CutoverError, PlanInvalid, Refused
from include.cutover.evidence.record import Event, Evidence, runs
from include.cutover.files import slug
from include.cutover.masking import mask
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs.deciders import require_decider

CLOSED = "incident.closed"
OUTCOMES = ("rolled_back", "failed", "released")
"""Ends of a run that are an incident."""

SHORTEST = 3  # characters of what must be said


@dataclass(frozen=True)
class Kept:
    """Something that was kept for the inquiry, and where."""

    what: str
    where: str


@dataclass(frozen=True)
class Incident:
    """The incident of a run.

    Attributes:
        outcome: How the run ended.
        at: When.
        why: The first reason that was recorded.
        closed: The event that closed it; None while it is open.
    """

    evidence: Evidence
    run_id: str
    outcome: str
    at: str
    why: str
    closed: Event | None

    @property
    def complete(self) -> bool:
        """Whether the way back is: before that there is nothing to close."""
        return self.outcome != "failed"


def of(evidence: Evidence) -> Incident | None:
    """The incident that a run left, open or closed; None where it left none, or is not closed yet.

    Raises:
        CannotCheck: When the evidence is damaged.
    """
    sealed = evidence.sealed
    events = evidence.events()
    opened = evidence.last("run.opened")
    if sealed is None or opened is None or sealed.get("outcome") not in OUTCOMES:
        return None
    closed = next((event for event in reversed(events) if event["event"] == CLOSED and event["seq"] > sealed["seq"]), None)
    return Incident(evidence, str(opened["run_id"]), str(sealed["outcome"]), str(sealed["time"]), _why(events), closed)


def _why(events: list[Event]) -> str:
    asked = next((event for event in reversed(events) if event["event"] in ("reopened", "rollback.asked")), None)
    if asked is not None:
        return f"{asked.get('reason')} (asked for by {asked.get('by')})"
    decided = next((event for event in reversed(events) if event["event"] == "decision" and event.get("why")), None)
    return str(decided["why"][0]) if decided is not None else "no reason is recorded"


def incidents(plan: str) -> list[Incident]:
    """All incidents of a plan, oldest first."""
    return [found for run in runs(plan) if (found := of(run)) is not None]


def kept(evidence: Evidence) -> list[Kept]:
    """What lies where for the inquiry: from the events, and from the folder of the evidence."""
    found = []
    schema, pending = evidence.last("target.kept"), evidence.last("target.pending")
    if schema is not None:
        rows = sum(int(number) for number in (schema.get("rows") or {}).values())
        found.append(Kept("the target's data", f"schema {schema['schema']} in the target, {rows:,} rows"))
    if pending is not None and (schema is None or schema["seq"] < pending["seq"]):
        found.append(Kept("the target's data", "still in its place in the target; the next run puts it aside first"))
    written = evidence.last("rows.written")
    if written is not None and written.get("files"):
        lines = sum(int(item["lines"]) for item in written["files"])
        found.append(Kept("rows written after go-live", f"{evidence.folder / written['folder']}, {lines:,} lines"))
    elif written is not None and written.get("tables") is None:
        found.append(Kept("rows written after go-live", f"unknown: {written.get('unknown')}"))
    folder = evidence.folder / "kept"
    logs = sorted((folder / "logs").glob("*.log"))
    if logs:
        found.append(Kept("logs of the services", f"{folder / 'logs'}: {', '.join(path.name for path in logs)}"))
    found += [Kept("the source as it was found", str(path)) for path in _found(folder)]
    document = evidence.folder / "incident.md"
    if document.is_file():
        found.append(Kept("incident document", str(document)))
    backup = evidence.last("backup") or {}
    found += [
        Kept(title, str(backup[key]))
        for key, title in (("file", "backup"), ("second_file", "second copy"))
        if backup.get(key)
    ]
    found.append(Kept("evidence", str(evidence.folder)))
    return found


def _found(folder: Path) -> list[Path]:
    """The files that the way back found in the place of the source: in ``kept`` itself, and in its numbered folders."""
    if not folder.is_dir():
        return []
    places = [folder, *sorted(item for item in folder.iterdir() if item.is_dir() and item.name.isdigit())]
    return [path for place in places for path in sorted(place.iterdir()) if path.is_file() and not path.name.startswith(".")]


def require_none_open(plan: str) -> None:
    """Refuse a new run while an incident is open.

    Raises:
        Refused: Names the run, what was kept, and what must be done.
    """
    for found in incidents(plan):
        if found.closed is not None:
            continue
        if not found.complete:
            raise Refused(
                "an earlier run did not come to its end",
                where=f"plan {plan}",
                expected="no run whose way back is not complete",
                found=f"the run {found.run_id} was closed at {found.at} before its way back was complete",
                do=f"Bring it to its end first: trigger rollback_{plan} again, or use the break-glass rollback. Then the "
                f"lead closes its incident: {_how(plan)}. Kept for the inquiry: {_listed(found)}.",
            )
        raise Refused(
            "the incident of an earlier run is not closed",
            where=f"plan {plan}",
            expected="cause, fix and reference, by the lead or a deputy",
            found=f"the run {found.run_id} ended as {found.outcome} at {found.at}: {mask(found.why)}",
            do=f"When the cause is corrected, the lead closes it: {_how(plan)}. Kept for the inquiry: {_listed(found)}.",
        )


def _how(plan: str) -> str:
    return f"trigger incident_{plan}, or python -m include.cutover incident close --plan {plan}"


def _listed(found: Incident) -> str:
    return "; ".join(f"{item.what}: {item.where}" for item in kept(found.evidence))


def find(plan: str, run: str = "") -> Incident:
    """The incident of a run; without one, the open one, else the newest.

    Args:
        run: Run id, or the folder of its evidence.

    Raises:
        Refused: When there is none.
    """
    known = incidents(plan)
    if run:
        fitting = [
            item
            for item in known
            if run in (item.run_id, item.evidence.folder.name) or slug(run) == item.evidence.folder.name
        ]
    else:
        fitting = [item for item in known if item.closed is None][:1] or known[-1:]
    if not fitting:
        raise Refused(
            "there is no such incident" if run else "there is no incident",
            where=f"plan {plan}",
            expected="a run that ended rolled back, released or failed",
            found=f"run {run}" if run else "none",
            do=f"Runs with an incident: {', '.join(item.run_id for item in known) or 'none'}.",
        )
    return fitting[0]


def close(plan: str, run: str = "", *, by: str | None, cause: str, fix: str, reference: str) -> Incident:
    """Close the incident of a run: an event in its evidence. A second call finds it closed and changes nothing.

    Args:
        run: As in ``find``.
        by: User name of the lead or a deputy.
        reference: Where the rest can be read: a ticket, a document.

    Raises:
        Refused: When somebody else says so, when something is left out, when the way back is not complete, or when there is
            no incident.
    """
    require_decider(_people(plan, run), by, "close an incident")
    said = {"cause": cause.strip(), "fix": fix.strip(), "reference": reference.strip()}
    missing = [name for name, text in said.items() if len(text) < SHORTEST]
    if missing:
        raise Refused(
            "an incident is closed with its cause, its fix and a reference",
            where=f"plan {plan}",
            expected=f"a text of at least {SHORTEST} characters for each",
            found=f"none for {', '.join(missing)}",
        )
    found = find(plan, run)
    if found.closed is not None:
        return found
    if not found.complete:
        raise Refused(
            "the way back of this run is not complete, so its incident cannot be over",
            where=found.run_id,
            do=f"Trigger rollback_{plan} again, or use the break-glass rollback; if the application was brought back by "
            "hand, say so with 'evidence close'.",
        )
    found.evidence.append(CLOSED, by=by, **{name: mask(text) for name, text in said.items()})
    return find(plan, found.run_id)


def _people(plan: str, run: str) -> Plan:
    """Today's plan; where its file is broken, the one that the run froze."""
    try:
        return load_plan(plan)
    except PlanInvalid:
        with suppress(CutoverError, OSError, ValueError):
            return Plan.model_validate_json((find(plan, run).evidence.folder / "plan.json").read_bytes())
        raise
