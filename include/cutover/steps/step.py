"""A step of the runbook: its plan, evidence and ends, who runs it, and its report. ``running`` runs it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from include.cutover.checks import Check
from include.cutover.connections.commands import Remote, Runner
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import CannotCheck, PlanInvalid, Refused
from include.cutover.evidence import fingerprints, lease
from include.cutover.evidence.record import Evidence
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.runs import deciders, runbook
from include.cutover.source import backup_manifest
from include.cutover.source.backup_manifest import Manifest
from include.cutover.target import ledger

log = logging.getLogger("cutover")

FROZEN_PLAN = "plan.json"


@dataclass(frozen=True)
class Report:
    """The result of a step: one sentence, figures, and the checks it made.

    Attributes:
        accept_unknown: Checks may stay "could not check"; a person decides about them at a gate.
        warnings: They stop nothing. They are shown at the gates and in the report.
    """

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    accept_unknown: bool = False
    warnings: Sequence[str] = ()

    @property
    def outcome(self) -> str:
        """``failed`` when a check failed, or could not be made and is relied on; else ``passed``."""
        bad = ("failed",) if self.accept_unknown else ("failed", "unknown")
        return "failed" if any(check.outcome in bad for check in self.checks) else "passed"

    @property
    def failure(self) -> str:
        """The summary and every check that did not pass, for a person."""
        bad = [check for check in self.checks if check.outcome != "passed"]
        lines = [f"{check.title}: expected {check.expected}, found {check.found}. {check.do}" for check in bad]
        return "\n".join([self.summary, *lines])


class Ends(Protocol):
    """Access of a step to source, target, hosts and people. Its results are never logged: they hold passwords."""

    def source_path(self, plan: Plan) -> Path:
        """Return the application's SQLite file."""
        ...

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """Return the libpq connection string of the target."""
        ...

    def application_role(self, plan: Plan) -> str | None:
        """Return the role that the application logs in with; None where the plan moves no application."""
        ...

    def application_url(self, plan: Plan) -> str:
        """Return the URL that goes into the application's configuration."""
        ...

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """Return the channels for notices."""
        ...

    def remote(self, plan: Plan, connection: str) -> Runner:
        """Return the host of an SSH connection, for running commands. It connects on first use."""
        ...

    def identities(self) -> Identities:
        """Return the auth manager's ids of people; they are not secret."""
        ...


@dataclass(frozen=True)
class Caller:
    """The DAG run, or the call of a command, that runs a step.

    Attributes:
        dag_id: The DAG, or the command.
        run_id: Id of the DAG's run, or of one call of the command.
        actor: The person who triggered it; None where not known.
        params: The trigger form.
        try_number: Counted from 1.
        log_url: Address of this try's log; empty where there is none.
        triggered_at: When the run was triggered; None where not known.
    """

    dag_id: str
    run_id: str
    actor: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    try_number: int = 1
    log_url: str = ""
    triggered_at: datetime | None = None

    @property
    def holder(self) -> str:
        """Its name in the lease."""
        return f"{self.dag_id}/{self.run_id}"


class Step:
    """One execution of a step, as its body gets it.

    Attributes:
        plan: The plan frozen when the run opened; where there is none, the plan given, or the file's.
        series: Folder of the runs below the evidence root: the plan's name, or another for runs that are not cutovers.
        run_id: The cutover that the step works on; for a rollback that is not the caller's own run.
        evidence: The evidence of ``run_id``.
        rehearses: The step belongs to a rehearsal.
    """

    rehearses = False

    def __init__(
        self, plan_name: str, name: str, caller: Caller, ends: Ends, plan: Plan | None = None, series: str = ""
    ) -> None:
        self.name = name
        self.caller = caller
        self.ends = ends
        self.series = series or plan_name
        self.find_evidence()
        self.plan = plan or frozen_plan(self.evidence) or load_plan(plan_name)
        self.log = log

    def find_evidence(self) -> None:
        """Find run and evidence where the evidence lies now."""
        self.run_id = subject_of(self.series, self.caller.run_id) or self.caller.run_id
        self.evidence = Evidence.of(self.series, self.run_id)

    @property
    def own_run_id(self) -> str:
        """Run id of the caller itself."""
        return self.caller.run_id

    @property
    def actor(self) -> str | None:
        """The person who triggered it."""
        return self.caller.actor

    @property
    def params(self) -> Mapping[str, Any]:
        """The trigger form."""
        return self.caller.params

    @property
    def holder(self) -> str:
        """The caller's name in the lease."""
        return self.caller.holder

    @property
    def log_url(self) -> str:
        """Address of this try's log; empty where there is none."""
        return self.caller.log_url

    @cached_property
    def source(self) -> Path:
        """The application's SQLite file."""
        return self.ends.source_path(self.plan)

    @cached_property
    def target(self) -> str:
        """Connection string (libpq) of the target, with this run and step as application name."""
        return self.ends.target_conninfo(self.plan, f"{self.run_id[-40:]}:{self.name}")

    @cached_property
    def epoch(self) -> int:
        """The epoch under which this run holds the target."""
        event = self.evidence.last("lease.target", holder=self.holder)
        if event is None:
            raise Refused("this run has no lease of the target", where=self.run_id, do=f"Run {runbook.APPLY_DDL} first.")
        return int(event["epoch"])

    @cached_property
    def guard(self) -> ledger.Guard:
        """The guard that refuses, inside the transaction that calls it, when the lease of the target is lost."""
        return ledger.guard(self.run_id, self.epoch)

    @cached_property
    def manifest(self) -> Manifest:
        """The verified backup of this run, from the first of its copies that can be read."""
        event = self.evidence.last("backup")
        if event is None:
            raise CannotCheck(
                "this run has no backup",
                where=self.run_id,
                expected=f"the step {runbook.TAKE_BACKUP} passed",
                do="See the task take_backup for the reason.",
            )
        return backup_manifest.load(*(Path(event[name]) for name in ("manifest", "second_manifest") if event.get(name)))

    @cached_property
    def decided(self) -> Decided:
        """The snapshot that copy and proof read: the backup, or the backup with the plan's decisions carried out."""
        event = self.evidence.last("snapshot")
        if event is None:
            raise CannotCheck(
                "this run has no snapshot",
                where=self.run_id,
                expected=f"the step {runbook.TAKE_BACKUP} passed",
                do="See the task take_backup for the reason.",
            )
        return Decided.from_dict(event["decided"])

    @cached_property
    def remote(self) -> Remote:
        """A function from an SSH connection's id to its host; each host is made once."""
        return cache(lambda connection: self.ends.remote(self.plan, connection))

    @property
    def expected_rows(self) -> dict[str, int]:
        """Table → rows that the target must hold: the snapshot's, and reference data where the snapshot has none."""
        reference = self.evidence.last("reference.rows")
        return {**self.decided.expected_rows(self.manifest.counts), **(reference["rows"] if reference else {})}

    def holds_lease(self) -> bool:
        """Report whether the caller may act for the run now."""
        return lease.holds(self.series, self.run_id, self.holder)

    def give_way(self) -> None:
        """Refuse to continue where another run takes precedence. For a cutover there is none."""

    @property
    def changed(self) -> list[str]:
        """Names of those of plan, SQL files and code that changed since the run opened."""
        opened = self.evidence.last("run.opened") or {}
        return fingerprints.changed(self.plan.name, opened.get("fingerprints", {}))

    @property
    def entitled(self) -> set[str]:
        """User names whose answer counts at a gate."""
        return deciders.entitled(self.plan)


def subject_of(plan: str, own_run_id: str) -> str | None:
    """Return the cutover that a rollback run works on; None for a cutover itself."""
    own = Evidence.of(plan, own_run_id)
    opened = own.last("rollback.opened") if own.exists else None
    return None if opened is None else str(opened["subject"])


def frozen_plan(evidence: Evidence) -> Plan | None:
    """Return the plan frozen when the run opened, which later changes of the file do not reach; None where there is none.

    Raises:
        CannotCheck: When the frozen plan was changed, and the plan's file changed as well.
    """
    try:
        content = (evidence.folder / FROZEN_PLAN).read_bytes()
    except FileNotFoundError:
        return None
    recorded = evidence.last("file", name=FROZEN_PLAN)
    if recorded is None or hashlib.sha256(content).hexdigest() == recorded["sha256"]:
        return Plan.model_validate_json(content)
    opened = evidence.last("run.opened") or {}
    with suppress(PlanInvalid):
        plan = load_plan(evidence.folder.parent.name)
        if fingerprints.of_plan(plan) == opened.get("fingerprints", {}).get("plan"):
            return plan
    raise CannotCheck(
        "the plan in the evidence differs from its record",
        where=str(evidence.folder / FROZEN_PLAN),
        expected=f"SHA-256 {recorded['sha256']}",
        do="Restore it from a copy of the evidence, or restore the plan's file as it was then.",
    )


Body = Callable[..., Report]
