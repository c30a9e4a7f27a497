"""The runs of a plan as their evidence shows them, and the reasons why nothing of a run may be removed yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from include.cutover.aftercare.record import OPENED, end_of, evidence_of, is_over
from include.cutover.errors import CannotCheck
from include.cutover.evidence import lease
from include.cutover.evidence.record import EVENTS, Event, Evidence, evidence_root, order, sealing
from include.cutover.plan.model import Plan
from include.cutover.runs import incident

log = logging.getLogger(__name__)

_AFTER_AFTERCARE = timedelta(days=1)  # an aftercare that was killed never closes
_ROLLING_BACK = "a rollback is in progress"


@dataclass(frozen=True)
class PastRun:
    """A run and its events."""

    evidence: Evidence
    events: list[Event]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.evidence.folder.name

    def last(self, kind: str) -> Event | None:
        """Return its newest event of that name."""
        return next((event for event in reversed(self.events) if event["event"] == kind), None)

    @property
    def run_id(self) -> str:
        """Its id in Airflow."""
        return str((self.last("run.opened") or {})["run_id"])

    @property
    def outcome(self) -> str | None:
        """The outcome that it was sealed with; None while it is open."""
        return (sealing(self.events) or {}).get("outcome")

    def frozen_plan(self, otherwise: Plan) -> Plan:
        """Return the plan as the run froze it, or the other one where that cannot be read."""
        try:
            return Plan.model_validate_json((self.evidence.folder / "plan.json").read_bytes())
        except (OSError, ValueError):
            return otherwise

    @property
    def copies(self) -> list[tuple[Path, str]]:
        """The copies of its backup as they were recorded, each with its SHA-256; none before the backup."""
        taken = self.last("backup")
        return (
            [(Path(taken[key]), str(taken["sha256"])) for key in ("file", "second_file") if taken.get(key)] if taken else []
        )

    @property
    def clone(self) -> list[tuple[Path, str]]:
        """The clone of the backup in which the plan's decisions were carried out, with its SHA-256; empty without one."""
        event, taken = self.last("snapshot"), self.last("backup")
        decided: Mapping[str, Any] = (event or {}).get("decided") or {}
        file, sha256 = decided.get("file"), decided.get("sha256")
        if not file or not sha256 or taken is None or str(file) in (taken["file"], taken.get("second_file")):
            return []
        return [(Path(str(file)), str(sha256))]


def all_of(plan: str) -> list[PastRun]:
    """Return the plan's cutovers whose evidence is undamaged, oldest first. Nothing of a damaged one is touched."""
    folder = evidence_root() / plan
    found = []
    for item in sorted(folder.iterdir()) if folder.is_dir() else []:
        if item.is_symlink() or not (item / EVENTS).is_file():
            continue
        try:
            events = Evidence(item).events()
        except CannotCheck as error:
            log.warning("nothing of it is changed: %s", error)
            continue
        if any(event["event"] == "run.opened" for event in events):
            found.append(PastRun(Evidence(item), events))
    return sorted(found, key=lambda run: order(run.events))


def keep_reason(run: PastRun, plan: Plan, now: datetime) -> str:
    """Return why nothing of the run may be removed yet; empty when it may."""
    sealed = sealing(run.events)
    if sealed is None:
        return "its run is open"
    outcome = sealed.get("outcome")
    if outcome == "failed":
        return "the rollback or release of its run is not complete"
    if outcome in ("rolled_back", "released") and not any(
        event["event"] == incident.CLOSED and event["seq"] > sealed["seq"] for event in run.events
    ):
        return "the incident of its run is not closed"
    if outcome == "live":
        return _keep_reason_of_live(run, plan, now, sealed)
    return ""


def _keep_reason_of_live(run: PastRun, plan: Plan, now: datetime, sealed: Event) -> str:
    watched = evidence_of(plan.name, run.run_id)
    if watched.exists and not is_over(watched):
        opened = watched.last(OPENED)
        if opened is None or now < end_of(opened) + _AFTER_AFTERCARE:
            return "its aftercare is not over"
    due = datetime.fromisoformat(sealed["time"]) + timedelta(minutes=plan.aftercare.minutes)
    if not watched.exists and plan.aftercare.enabled and now < due:
        return "its aftercare period is not over"
    held = lease.read(plan.name)
    if held is not None and _rolls_back(held, run):
        return _ROLLING_BACK
    return ""


def keep_reason_now(run: PastRun, plan: Plan, now: datetime, held: lease.Lease | None) -> str:
    """Return the same from the run's evidence as it is now.

    Args:
        run: The run as it was read before.
        plan: Its plan.
        now: The time to compare with.
        held: The plan's lease, which no run can take meanwhile.
    """
    newest = PastRun(run.evidence, run.evidence.events())
    if held is not None and _rolls_back(held, newest) and newest.outcome == "live":
        return _ROLLING_BACK
    return keep_reason(newest, plan, now)


def _rolls_back(held: lease.Lease, run: PastRun) -> bool:
    """Return True when another holder than the cutover itself has its lease."""
    opened = run.last("run.opened") or {}
    return held.subject == run.run_id and held.holder != f"{opened.get('dag_id')}/{run.run_id}"
