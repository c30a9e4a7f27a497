"""The incident left by a run that changed the application and did not go live. The lead closes it.

No new cutover can open before that: first the cause and the fix must be recorded. Closing it is one event in the evidence of
the run, which is otherwise sealed; the event continues the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""Outcomes of a run that leave an incident."""

SOURCE_FOUND = "source.found"
"""Event: the file that a way back found in the database's place, its rows beyond the backup, and where it is now."""

_BESIDE = {
    "-wal": "its write-ahead log",
    "-shm": "the index of its write-ahead log",
    "-journal": "its rollback journal",
    ".fence.json": "the note of its fence",
}

SHORTEST = 3  # characters of cause, fix and reference


@dataclass(frozen=True)
class KeptItem:
    """Something that was kept for the investigation, and its place."""

    what: str
    where: str


@dataclass(frozen=True)
class Incident:
    """The incident of a run.

    Attributes:
        evidence: The run's evidence.
        run_id: The run.
        outcome: Its outcome.
        at: When it was sealed, UTC.
        why: The first recorded reason.
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
        """True once the way back is complete; before that the incident cannot be closed."""
        return self.outcome != "failed"


def of(evidence: Evidence) -> Incident | None:
    """Return the incident that a run left, open or closed; None where it left none, or is still open itself.

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
        return f"{asked.get('reason')} (requested by {asked.get('by')})"
    decided = next((event for event in reversed(events) if event["event"] == "decision" and event.get("why")), None)
    return str(decided["why"][0]) if decided is not None else "no reason was recorded"


def incidents(plan: str) -> list[Incident]:
    """List all incidents of a plan, oldest first."""
    return [found for run in runs(plan) if (found := of(run)) is not None]


def kept(evidence: Evidence) -> list[KeptItem]:
    """List everything kept for the investigation, with its place, from the events and the folder of the evidence."""
    found = []
    schema, pending = evidence.last("target.kept"), evidence.last("target.pending")
    if schema is not None:
        rows = sum(int(number) for number in (schema.get("rows") or {}).values())
        found.append(KeptItem("the target's data", f"schema {schema['schema']} in the target, {rows:,} rows"))
    if pending is not None and (schema is None or schema["seq"] < pending["seq"]):
        found.append(KeptItem("the target's data", "still in its place in the target; the next run sets it aside first"))
    written = evidence.last("rows.written")
    if written is not None and written.get("files"):
        lines = sum(int(item["lines"]) for item in written["files"])
        found.append(KeptItem("rows written after go-live", f"{evidence.folder / written['folder']}, {lines:,} lines"))
    elif written is not None and written.get("tables") is None:
        found.append(KeptItem("rows written after go-live", f"unknown: {written.get('unknown')}"))
    folder = evidence.folder / "kept"
    logs = sorted((folder / "logs").glob("*.log"))
    if logs:
        found.append(KeptItem("logs of the services", f"{folder / 'logs'}: {', '.join(path.name for path in logs)}"))
    found += [
        KeptItem("the source as it was found", f"{path}: {holds}")
        for path, holds in kept_files(evidence.folder, evidence.events())
    ]
    document = evidence.folder / "incident.md"
    if document.is_file():
        found.append(KeptItem("incident document", str(document)))
    backup = evidence.last("backup") or {}
    found += [
        KeptItem(title, str(backup[key]))
        for key, title in (("file", "backup"), ("second_file", "second copy"))
        if backup.get(key)
    ]
    found.append(KeptItem("evidence", str(evidence.folder)))
    return found


def kept_files(run: Path, events: Sequence[Event]) -> list[tuple[Path, str]]:
    """List the files that the way back found in place of the source, and the content of each, in words.

    Args:
        run: The evidence folder of the run.
        events: Its events, as far as they are legible.
    """
    folder = run / "kept"
    if not folder.is_dir():
        return []
    known: dict[str, str] = {}
    for event in events:
        place = event.get("kept_in") if event["event"] == SOURCE_FOUND else None
        # A second try of a killed one finds no database any more.
        if place and (event["state"] != "missing" or place not in known):
            known[place] = str(event["holds"])
    found = []
    for place in [folder, *sorted(item for item in folder.iterdir() if item.is_dir() and item.name.isdigit())]:
        holds = known.get(str(place.relative_to(run)), "its content is not recorded")
        for path in sorted(place.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                found.append((path, _beside(path) or holds))
    return found


def _beside(path: Path) -> str:
    """Describe a file that lay beside the database; empty for the database itself."""
    words = next((text for end, text in _BESIDE.items() if path.name.endswith(end)), "")
    return f"{words}, {path.stat().st_size:,} bytes" if words else ""


def require_none_open(plan: str) -> None:
    """Refuse a new run while an incident is open.

    Raises:
        Refused: Names the run, everything that was kept, and the next step.
    """
    for found in incidents(plan):
        if found.closed is not None:
            continue
        if not found.complete:
            raise Refused(
                "an earlier run was not completed",
                where=f"plan {plan}",
                expected="every earlier run closed with its way back complete",
                found=f"the run {found.run_id} was closed at {found.at} before its way back was complete",
                do=f"Complete it first: trigger rollback_{plan} again, or use the break-glass rollback. Then the "
                f"lead closes its incident: {_how(plan)}. Kept for the investigation: {_listed(found)}.",
            )
        raise Refused(
            "the incident of an earlier run is not closed",
            where=f"plan {plan}",
            expected="cause, fix and reference, by the lead or a deputy",
            found=f"the run {found.run_id} ended as {found.outcome} at {found.at}: {mask(found.why)}",
            do=f"When the cause is fixed, the lead closes it: {_how(plan)}. Kept for the investigation: {_listed(found)}.",
        )


def _how(plan: str) -> str:
    return f"trigger incident_{plan}, or python -m include.cutover incident close --plan {plan}"


def _listed(found: Incident) -> str:
    return "; ".join(f"{item.what}: {item.where}" for item in kept(found.evidence))


def find(plan: str, run: str = "") -> Incident:
    """Find the incident of a run; without a run, the open one, else the newest.

    Args:
        plan: Name of the plan.
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
    """Close the incident of a run, by an event in its evidence. A second call finds it closed and changes nothing.

    Args:
        plan: Name of the plan.
        run: As in ``find``.
        by: User name of the lead or a deputy.
        cause: The cause, in words.
        fix: The fix, in words.
        reference: A ticket or document with the details.

    Raises:
        Refused: When another person asks, when a text is missing, when the way back is not complete, or when there is no
            incident.
    """
    require_decider(_people(plan, run), by, "close an incident")
    given = {"cause": cause.strip(), "fix": fix.strip(), "reference": reference.strip()}
    missing = [name for name, text in given.items() if len(text) < SHORTEST]
    if missing:
        raise Refused(
            "an incident is closed with its cause, its fix and a reference",
            where=f"plan {plan}",
            expected=f"a text of at least {SHORTEST} characters for each",
            found=f"none for {', '.join(missing)}",
            do="Fill in all three.",
        )
    found = find(plan, run)
    if found.closed is not None:
        return found
    if not found.complete:
        raise Refused(
            "the way back of this run is not complete, so its incident cannot be closed",
            where=found.run_id,
            do=f"Trigger rollback_{plan} again, or use the break-glass rollback; if the application was restored by "
            "hand, record that with 'evidence close'.",
        )
    found.evidence.append(CLOSED, by=by, **{name: mask(text) for name, text in given.items()})
    return find(plan, found.run_id)


def _people(plan: str, run: str) -> Plan:
    """Return today's plan; if its file is broken, the one that the run froze."""
    try:
        return load_plan(plan)
    except PlanInvalid:
        with suppress(CutoverError, OSError, ValueError):
            return Plan.model_validate_json((find(plan, run).evidence.folder / "plan.json").read_bytes())
        raise
