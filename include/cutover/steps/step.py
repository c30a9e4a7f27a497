"""A step of the runbook: checks that it may run, runs a plain function, and records what became of it.

The record in the evidence, not the state of an Airflow task, is what later steps and branches believe. Nothing here knows
Airflow: its tasks run steps through ``tasks.operators``, and the break-glass rollback runs them without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from include.cutover.checks import Check
from include.cutover.connections.commands import Remote, Runner
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import CannotCheck, CutoverError, LeaseLost, PlanInvalid, Refused
from include.cutover.evidence import claims, fingerprints, lease
from include.cutover.evidence.record import Event, Evidence
from include.cutover.masking import mask
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import disk_space
from include.cutover.runs import clock, verdict
from include.cutover.runs.clock import OutOfTime
from include.cutover.source import backup_manifest
from include.cutover.source.backup_manifest import Manifest
from include.cutover.steps import notices as notice_steps
from include.cutover.target import ledger

log = logging.getLogger("cutover")

FROZEN_PLAN = "plan.json"


@dataclass(frozen=True)
class Report:
    """What a step tells: one sentence, figures, and the checks it made.

    ``accept_unknown`` lets checks stay "could not check"; somebody else then decides about them. ``warnings`` stop nothing;
    whoever decides at a gate reads them, and they are in the report.
    """

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    accept_unknown: bool = False
    warnings: Sequence[str] = ()

    @property
    def outcome(self) -> str:
        """``failed`` when a check failed, or could not be made and somebody relies on it."""
        bad = ("failed",) if self.accept_unknown else ("failed", "unknown")
        return "failed" if any(check.outcome in bad for check in self.checks) else "passed"

    @property
    def failure(self) -> str:
        """The summary, and every check that did not pass; for a person."""
        bad = [check for check in self.checks if check.outcome != "passed"]
        lines = [f"{check.title}: expected {check.expected}, found {check.found}. {check.do}" for check in bad]
        return "\n".join([self.summary, *lines])


class Ends(Protocol):
    """Where a step finds the two ends and the ways to people. What it returns is never logged: it holds passwords."""

    def source_path(self, plan: Plan) -> Path:
        """The application's SQLite file."""
        ...

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """libpq connection string of the target."""
        ...

    def application_role(self, plan: Plan) -> str | None:
        """The role that the application logs in with; None where the plan moves no application."""
        ...

    def application_url(self, plan: Plan) -> str:
        """The URL that goes into the application's configuration."""
        ...

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """The ways to people."""
        ...

    def remote(self, plan: Plan, connection: str) -> Runner:
        """The host of an SSH connection, where commands are run. It is connected when it is first needed."""
        ...

    def identities(self) -> Identities:
        """The auth manager's ids of people; they are no secret."""
        ...


@dataclass(frozen=True)
class Caller:
    """Who runs a step.

    Attributes:
        dag_id: The DAG, or the command.
        run_id: Of the DAG's run; of one call of the command.
        actor: The person who triggered it; None where nobody is known.
        params: The trigger form.
        try_number: Counted from 1.
        log_url: Where the log of this try can be read; empty where nowhere.
        triggered_at: When somebody asked for the run; None where that is not known.
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
        """How the lease calls it."""
        return f"{self.dag_id}/{self.run_id}"


class Step:
    """What the body of a step works with.

    Attributes:
        plan: The plan as it was frozen when the run opened; the one that was given, or the file's, where none is.
        series: Folder of the runs below the evidence root: the plan's name, or another one for runs that are no cutovers.
        run_id: The cutover that is worked on; for a rollback that is another run than the caller's own.
        evidence: The evidence of ``run_id``.
    """

    rehearses = False

    def __init__(
        self, plan_name: str, name: str, caller: Caller, ends: Ends, plan: Plan | None = None, series: str = ""
    ) -> None:
        self.name = name
        self.caller = caller
        self.ends = ends
        self.series = series or plan_name
        self.run_id = subject_of(self.series, caller.run_id) or caller.run_id
        self.evidence = Evidence.of(self.series, self.run_id)
        self.plan = plan or frozen_plan(self.evidence) or load_plan(plan_name)
        self.log = log

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
        """How the lease calls the caller."""
        return self.caller.holder

    @property
    def log_url(self) -> str:
        """Where the log of this try can be read; empty where nowhere."""
        return self.caller.log_url

    @cached_property
    def source(self) -> Path:
        """The application's SQLite file."""
        return self.ends.source_path(self.plan)

    @cached_property
    def target(self) -> str:
        """libpq connection string of the target, with this run and step as application name."""
        return self.ends.target_conninfo(self.plan, f"{self.run_id[-40:]}:{self.name}")

    @cached_property
    def epoch(self) -> int:
        """The epoch under which this run holds the target."""
        event = self.evidence.last("lease.target", holder=self.holder)
        if event is None:
            raise Refused("this run never got the lease of the target", where=self.run_id, do="Run apply_ddl first.")
        return int(event["epoch"])

    @cached_property
    def guard(self) -> ledger.Guard:
        """Refuses, inside the transaction that calls it, when the lease of the target is lost."""
        return ledger.guard(self.run_id, self.epoch)

    @cached_property
    def manifest(self) -> Manifest:
        """The verified backup of this run, by whichever of its copies can be read."""
        event = self.evidence.last("backup")
        if event is None:
            raise CannotCheck("this run has no backup", where=self.run_id, expected="the step take_backup passed")
        return backup_manifest.load(*(Path(event[name]) for name in ("manifest", "second_manifest") if event.get(name)))

    @cached_property
    def decided(self) -> Decided:
        """What copy and proof read: the backup, or what the plan's decisions made of it."""
        event = self.evidence.last("snapshot")
        if event is None:
            raise CannotCheck("this run has no snapshot", where=self.run_id, expected="the step take_backup passed")
        return Decided.from_dict(event["decided"])

    @cached_property
    def remote(self) -> Remote:
        """The host of an SSH connection, by the connection's id; one and the same for each."""
        return cache(lambda connection: self.ends.remote(self.plan, connection))

    @property
    def expected_rows(self) -> dict[str, int]:
        """Table to rows that the target must hold: the snapshot's, and the reference data where it brought none."""
        reference = self.evidence.last("reference.rows")
        return {**self.decided.expected_rows(self.manifest.counts), **(reference["rows"] if reference else {})}

    def holds_lease(self) -> bool:
        """Whether the caller may act for the run now."""
        return lease.holds(self.series, self.run_id, self.holder)

    def give_way(self) -> None:
        """Refuse to go on where something else comes first; nothing comes before a cutover."""

    @property
    def changed(self) -> list[str]:
        """Which of plan, SQL files and code are not as they were when the run opened."""
        opened = self.evidence.last("run.opened") or {}
        return fingerprints.changed(self.plan.name, opened.get("fingerprints", {}))

    @property
    def entitled(self) -> set[str]:
        """User names whose word counts at a gate."""
        return {person.user for person in self.plan.people.deciders}


def subject_of(plan: str, own_run_id: str) -> str | None:
    """The cutover that a rollback run works on, None for a cutover itself."""
    own = Evidence.of(plan, own_run_id)
    opened = own.last("rollback.opened") if own.exists else None
    return None if opened is None else str(opened["subject"])


def frozen_plan(evidence: Evidence) -> Plan | None:
    """The plan as it was when the run opened; later changes of the file do not reach a run in flight. None where none is.

    Raises:
        CannotCheck: When it was changed, and the plan's file is not what it was either.
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
        "the plan frozen in the evidence is not what was recorded",
        where=str(evidence.folder / FROZEN_PLAN),
        expected=f"SHA-256 {recorded['sha256']}",
        do="Put it back from a copy of the evidence, or the plan's file as it was then.",
    )


@dataclass(frozen=True)
class Terms:
    """When a step may run.

    Attributes:
        gate: Gate whose recorded go, by an entitled person, it needs.
        opens: It makes the run itself, so there is no lease to check yet.
        closes: It also runs when the lease is lost or the run is sealed; it decides what that means.
        way_back: It also runs when the plan, its SQL or the code is another than when the run opened, and again when the run
            was closed before its way back was complete: going back must work. No other step is in flight beside it.
        course: Where the run must be going, by its recorded decisions (see ``decision.course``); empty for any course.
        after: Steps that must have passed by their record; Airflow's word that they did is not enough.
        in_turn: The same, and each of them after the one before it.
        touched: The run must have changed something of the application: else there is nothing to go back from.
        in_time: It refuses past the deadline, and when the rest does not fit any more: a step before a point of no return.
    """

    gate: str | None = None
    opens: bool = False
    closes: bool = False
    way_back: bool = False
    course: Sequence[str] = ("forward", "go_live")
    after: Sequence[str] = ()
    in_turn: Sequence[str] = ()
    touched: bool = False
    in_time: bool = False


Body = Callable[..., Report]


def run(step: Step, body: Body, terms: Terms = Terms(), arguments: Mapping[str, Any] | None = None) -> Report:
    """Check that the step may run, run it, record its end; then send the notices that wait, for two seconds at most.

    Returns:
        What the body reported; its outcome may be ``failed``.

    Raises:
        CutoverError: When it may not run, or did not come to its end.
    """
    try:
        report = _carry_out(step, body, terms, arguments)
    except LeaseLost:
        raise
    except Exception:
        notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
        raise
    notice_steps.deliver(step.evidence, step.plan, step.ends.channels)
    return report


def _carry_out(step: Step, body: Body, terms: Terms, arguments: Mapping[str, Any] | None) -> Report:
    started = time.monotonic()

    def end(outcome: str, **told: Any) -> None:
        # A run without evidence has nowhere to record: opening it is what failed.
        if step.evidence.exists:
            seconds = round(time.monotonic() - started, 3)
            step.evidence.append("step.end", step=step.name, outcome=outcome, seconds=seconds, **told)

    with _claim(step, terms):
        try:
            must_run = terms.way_back or terms.closes or step.name == "open_rollback"
            disk_space.require(step.name, step.plan, lambda: step.source, must_run=must_run, series=step.series)
            if not terms.opens and not terms.closes:
                may_run(step, terms)
            step.evidence.append(
                "step.begin",
                step=step.name,
                try_number=step.caller.try_number,
                pid=os.getpid(),
                by=step.holder,
                log_url=step.log_url,
            )
            report = body(step, **(arguments or {}))
        except LeaseLost:
            raise  # nothing more is done by this run, not even a record
        except BaseException as error:
            text = str(error) if isinstance(error, CutoverError) else f"{type(error).__name__}: {error}"
            try:
                if isinstance(error, OutOfTime):
                    step.evidence.append("late", step=step.name, reason=error.found)
                end("refused" if isinstance(error, Refused) else "error", summary=mask(text))
            except CutoverError as unrecorded:  # a begin without an end is no pass; what went wrong first matters more
                step.log.error("the end of the step could not be recorded: %s", unrecorded)
            raise
        end(
            report.outcome,
            summary=report.summary,
            figures=report.figures,
            checks=[check.as_dict() for check in report.checks],
            warnings=[mask(warning) for warning in report.warnings],
        )
    for warning in report.warnings:
        step.log.warning("%s", warning)
    for check in report.checks:
        level = {"passed": logging.INFO, "unknown": logging.WARNING}.get(check.outcome, logging.ERROR)
        detail = "; ".join(part for part in (check.where, check.found and f"found {check.found}") if part)
        step.log.log(level, "%s: %s%s", check.outcome, check.title, f" ({detail})" if detail else "")
    step.log.info("%s", report.summary)
    return report


def _claim(step: Step, terms: Terms) -> AbstractContextManager[None]:
    plan, run_id = step.series, step.run_id
    if terms.opens:
        return claims.opening(plan, run_id, step.name)
    alone = (terms.way_back or terms.closes) and step.holds_lease()
    return claims.claim(plan, run_id, step.name, alone=alone, may_end=step.holds_lease)


def may_run(step: Step, terms: Terms) -> None:
    """Refuse a step whose time is over, or has not come, by what is recorded.

    Raises:
        LeaseLost, Refused: See ``Terms``.
    """
    sealed = step.evidence.sealed
    unfinished = sealed is not None and terms.way_back and sealed.get("outcome") == "failed"
    if sealed is not None and not unfinished:
        raise Refused(
            "this run is closed and its steps do not run again",
            where=step.run_id,
            found=f"closed as {sealed.get('outcome')} at {sealed['time']}",
            do="Trigger a new run.",
        )
    lease.check(step.series, step.run_id, step.holder)
    step.give_way()
    if unfinished:  # somebody has mended what stood in the way, and cleared the red step
        step.evidence.append("continued", by=step.holder)
    changed = [] if terms.way_back else step.changed
    if changed:
        raise Refused(
            "what belongs to this run is not what it was when the run opened",
            where=step.run_id,
            expected="the same plan, SQL files and code until the run ends",
            found=f"changed: {', '.join(changed)}",
            do="The run goes back by itself. Leave the files alone until then, then trigger a new run.",
        )
    events = step.evidence.events()
    _stands(step, terms, events)
    if terms.in_time:
        require_in_time(step, events)
    gate = terms.gate
    if gate is not None and not verdict.gate_is_open(events, gate, step.entitled):
        answer = verdict.gate_answer(events, gate)
        raise Refused(
            f"the gate {gate} has no go by an entitled person",
            where=step.run_id,
            expected=f"Go by {', '.join(sorted(step.entitled))}",
            found="no recorded answer" if answer is None else f"{answer.get('answer')} by {answer.get('by')}",
            do="Marking the gate's task as success is no answer; trigger a new run and answer its gate.",
        )


def require_in_time(step: Step, events: Sequence[Event] | None = None, *, rest_from: str | None = None) -> None:
    """Go on only while there is time; see ``Clock.require_in_time``. A run without a clock has all the time.

    Raises:
        OutOfTime: When there is not.
    """
    found = clock.read(list(events) if events is not None else step.evidence.events())
    if found is not None:
        found.require_in_time(step.name, rest_from=rest_from)


def _stands(step: Step, terms: Terms, events: list[Event]) -> None:
    """Refuse a step that does not belong where the run is now: somebody cleared it, or marked what stands before it."""
    course = verdict.course(events)
    if terms.course and course not in terms.course:
        raise Refused(
            "the run is not where this step belongs",
            where=step.run_id,
            expected=f"a run that goes {' or '.join(terms.course)}",
            found=course,
            do="Leave the run alone, or trigger the rollback.",
        )
    if terms.touched and not verdict.has_touched(events):
        raise Refused("this run has stopped nothing, so there is nothing to roll back", where=step.run_id)
    before = [*terms.after, *terms.in_turn]
    missing = [name for name in before if not verdict.has_passed(events, name)]
    if missing or not verdict.passed_in_turn(events, terms.in_turn):
        raise Refused(
            "what stands before this step has not passed, or ran again since",
            where=step.run_id,
            expected=f"{', then '.join(terms.in_turn) or ', '.join(terms.after)} passed",
            found=", ".join(f"{name} {verdict.last_word(events, name)}" for name in missing or before),
            do="Marking a task as success is no proof. Clear the first of these steps with all behind it, or roll back.",
        )
