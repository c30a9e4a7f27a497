"""The rollback without Airflow, for when Airflow itself is down: the same steps, the same evidence.

It needs the evidence folder with the frozen plan, and access to the application's files. It sets aside the target's schema
where it can reach the target; otherwise that stays pending, as in a rollback by Airflow. It sends no notices: they are
recorded, and the operator sends them, or the outbox once Airflow is back.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from include.cutover import rights
from include.cutover.aftercare import rows_since_go_live
from include.cutover.application import configuration
from include.cutover.connections import environment, tls
from include.cutover.connections.ssh import Ssh
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.evidence import claims, lease, source_lease
from include.cutover.evidence.record import EVENTS, Event, Evidence, secure
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
from include.cutover.plan.application import DotenvConfiguration
from include.cutover.plan.model import Plan
from include.cutover.runs import runbook
from include.cutover.runs.terms import ROLLBACK
from include.cutover.runs.verdict import has_touched
from include.cutover.source import fence
from include.cutover.steps import close_run
from include.cutover.steps import rollback as steps_rollback
from include.cutover.steps.open_rollback import open_rollback
from include.cutover.steps.running import run
from include.cutover.steps.step import Body, Caller, Report, Step, frozen_plan

log = logging.getLogger("cutover")

NAME = "break_glass"
TRIES = 3
PAUSE_SECONDS = 2.0

OnStep = Callable[[str, Report | None], None]
"""Called with a step's name when it begins, and again with its report when it ends."""


@dataclass(frozen=True)
class EndsOfEvidence:
    """The ends of a run, from its evidence and from the caller; see ``steps.step.Ends``.

    Attributes:
        evidence: Evidence of the run.
        source: The SQLite file; from the evidence when left out.
        target: libpq connection string; from ``AIRFLOW_CONN_…`` in the environment when left out.
    """

    evidence: Evidence
    source: Path | None = None
    target: str | None = None

    def source_path(self, plan: Plan) -> Path:
        """Return the SQLite file of the run."""
        opened = self.evidence.last("run.opened") or {}
        found = self.source or opened.get("source")
        if not found:
            raise CannotCheck(
                "the evidence does not name the SQLite file",
                where=str(self.evidence.folder),
                do="Set --source.",
            )
        return Path(found)

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """Return the connection string of the target, as given or from the environment."""
        given = self.target or environment.conninfo(plan.connections.target)
        if given is None:
            raise CannotCheck(
                "there is no log-in for the target",
                where=f"connection {plan.connections.target}",
                expected=f"--target, or {environment.variable(plan.connections.target)} in the environment",
                do="Set --target.",
            )
        where = f"connection {plan.connections.target}" if self.target is None else "--target"
        conninfo = tls.demanded(given, plan.tls, where)
        return make_conninfo(conninfo, application_name=application_name[:63], connect_timeout=10)

    def application_role(self, plan: Plan) -> str | None:
        """Return the application's role, as the run recorded it when it took the target."""
        event = self.evidence.last("lease.target") or {}
        return event.get("application_role")

    def application_url(self, plan: Plan) -> str:
        """Refuse: a rollback does not need the URL of the target."""
        raise Refused("a rollback does not point the application at the target", where=plan.name)

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """Return none: the channels are Airflow's connections."""
        return []

    def identities(self) -> Identities:
        """Return none: gates are not asked without Airflow."""
        return Identities({}, "no Airflow", "")

    def remote(self, plan: Plan, connection: str) -> Ssh:
        """Return the host of an SSH connection from the environment."""
        return environment.host(connection, unverified=plan.connections.ssh_unverified)


def rollback(
    plan: str,
    folder: Path,
    *,
    reason: str,
    by: str,
    source: Path | None = None,
    target: str | None = None,
    give_up_rows: int | None = None,
    on_step: OnStep = lambda _name, _report: None,
) -> Report:
    """Roll back the run whose evidence is in ``folder``. Run it again after it failed or was killed.

    Args:
        plan: Name of the plan.
        folder: Evidence folder of the run.
        reason: Reason, for the evidence.
        by: Name of the person who asks, for the evidence.
        source: The SQLite file; its path in the evidence when left out.
        target: libpq connection string; from the environment when left out.
        give_up_rows: Number of rows beyond the backup in the SQLite file that are given up; see ``restore.restore``.
        on_step: Called at the begin and the end of each step.

    Returns:
        The report of the closed run.

    Raises:
        CannotCheck: When the folder does not hold evidence of that plan.
        Refused: When there is nothing to roll back, or when this user is neither root nor the owner of the evidence.
        Exception: When a step failed; the run is sealed as failed, and another call continues the rollback.
    """
    evidence, opened = _run_in(folder, plan)
    params = {"reason": reason, "run_id": opened["run_id"], "give_up_rows": give_up_rows}
    caller = Caller(dag_id=NAME, run_id=_own_run_id(), actor=by, params=params)
    ends = EndsOfEvidence(evidence, source, target)
    frozen = frozen_plan(evidence)

    def perform(name: str, body: Body, arguments: Mapping[str, Any] | None = None) -> Report:
        on_step(name, None)
        try:
            report = _with_patience(lambda: _attempt(Step(plan, name, caller, ends, frozen), body, arguments))
        finally:  # after each step: a command that is killed leaves as few files of root as possible
            _give_to_owner(evidence.folder, Evidence.of(plan, caller.run_id).folder, _kept_beside(frozen, evidence))
        on_step(name, report)
        if report.outcome == "failed":
            raise StepFailed(report.failure, where=name)
        return report

    perform(runbook.OPEN_ROLLBACK, open_rollback, {"anybody": True})
    try:
        for name, body in _steps(evidence):
            perform(name, body)
    except Exception:
        # After any failure the run is closed as it is; an error of the closing must not hide the reason.
        try:
            perform(runbook.CLOSE_ROLLBACK, close_run.close_rollback)
        except Exception as error:  # noqa: BLE001 - the first error is raised
            log.error("%s", error)
        raise
    return perform(runbook.CLOSE_ROLLBACK, close_run.close_rollback)


def _steps(evidence: Evidence) -> list[tuple[str, Body]]:
    """Return name and body of the steps that bring the application back."""
    if not has_touched(evidence.events()):
        return [(runbook.GIVE_UP, steps_rollback.give_up)]
    return [(row.name, steps_rollback.BODIES[row.name]) for row in runbook.way(ROLLBACK)]


def _attempt(step: Step, body: Body, arguments: Mapping[str, Any] | None) -> Report:
    return run(step, body, runbook.terms_of(step.name, step.plan), arguments)


def _kept_beside(plan: Plan | None, evidence: Evidence) -> list[Path]:
    """Return the files that a way back keeps beside the application's configuration."""
    if plan is None or not isinstance(plan.configuration, DotenvConfiguration):
        return []
    kept = configuration.kept_as(plan.configuration, evidence.folder.name, plan.backup.directory)
    return [kept, kept.with_name(f"{kept.name}.replaced")]


def _give_to_owner(folder: Path, own: Path, kept: Sequence[Path] = ()) -> None:
    """Hand files that root wrote to the owner of the evidence, because Airflow continues with them later.

    Args:
        folder: The evidence of the run.
        own: The evidence of this command.
        kept: Files beside the application's configuration.
    """
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    beside = [item for item in folder.parent.iterdir() if item.is_file()]
    for path in (own, *own.rglob("*"), *folder.rglob("*"), *beside, *(folder.parent / ".claims").rglob("*"), *kept):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _require_owner(folder: Path) -> None:
    """Refuse a user who is neither root nor the owner of the evidence: two histories of one run would begin.

    Raises:
        Refused: Nothing was changed.
    """
    events = folder / EVENTS
    if os.geteuid() not in (0, events.stat().st_uid):
        raise Refused(
            "this user is not the owner of the evidence, and Airflow could not go on with what this user writes",
            where=str(events),
            expected=rights.user(events.stat().st_uid),
            found=f"{rights.user(os.geteuid())}; {rights.owners(events)}",
            do="Run the command as that user or as root, for example with sudo. Nothing was changed.",
        )


def close_by_hand(folder: Path, *, reason: str, by: str, source: Path | None = None) -> str:
    """Close a run whose application was restored on SQLite by hand, so that no part of the run acts any more.

    It changes only the evidence and the leases. Before a later run may start, the application is kept out of the target and
    its schema is set aside.

    Args:
        folder: Evidence folder of the run.
        reason: The work done by hand, for the evidence.
        by: Name of the person who asks, for the evidence.
        source: The SQLite file; its path in the evidence when left out.

    Returns:
        The run id.

    Raises:
        CannotCheck: When the folder does not hold evidence of a run.
        Refused: When the run is closed already, or its fence is still around the database.
    """
    evidence, opened = _run_in(folder)
    run_id, plan = str(opened["run_id"]), str(opened["plan"])
    sealed = evidence.sealed
    if sealed is not None and sealed["outcome"] != "failed":
        raise Refused(
            "the run is closed already",
            where=run_id,
            found=f"{sealed['outcome']} at {sealed['time']}",
            do="Nothing was changed.",
        )
    database = source or Path(opened["source"])
    state = fence.status(database)
    if state.raised or state.note is not None:
        raise Refused(
            "the database is still fenced",
            where=str(database),
            expected="a database without a fence, on which the application runs",
            found=state.detail,
            do="Use the command rollback. If the backup is already restored, remove the fence's note beside the database.",
        )
    holder = f"{NAME}/{_own_run_id()}"
    lease.take_over(plan, run_id, holder)
    claims.wait_for_others(plan, lambda: lease.holds(plan, run_id, holder))
    evidence.append("rollback.asked", by=by, reason=reason, holder=holder)
    evidence.append("target.pending", run_id=run_id)
    rows_since_go_live.record_unknown(evidence, "the rollback was by hand, without a count")
    source_lease.release(database, run_id)
    evidence.append("sealed", outcome="rolled_back", summary=f"rolled back by hand: {reason}", by=holder)
    return run_id


def _run_in(folder: Path, plan: str | None = None) -> tuple[Evidence, Event]:
    """Return the evidence in a folder and the event of its opening; the evidence root becomes that of the folder."""
    folder = folder.resolve()
    evidence = Evidence(folder)
    opened = evidence.last("run.opened")
    if (
        opened is None
        or folder.parent.name != opened["plan"]
        or plan not in (None, opened["plan"])
        or opened.get("rehearsal")  # which worked on a clone
    ):
        raise CannotCheck(
            "this folder is not the evidence of a run" + (f" of the plan {plan}" if plan else ""),
            where=str(folder),
            expected=f"…/{plan or '<plan>'}/<run id>/ with the events of a cutover",
            do="Find the folder of the run below the evidence root, in the folder of its plan.",
        )
    _require_owner(folder)
    os.environ["CUTOVER_EVIDENCE"] = str(folder.parent.parent)
    secure(folder.parent.name, folder.name)
    return Evidence.of(folder.parent.name, folder.name), opened


def login() -> str:
    """Return the log-in of the user; behind sudo, of the user who called it."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _own_run_id() -> str:
    return f"{NAME}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def _with_patience(call: Callable[[], Report]) -> Report:
    """Retry errors where a retry may help, as Airflow does."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            if attempt == TRIES or (isinstance(error, CutoverError) and not error.retry_helps):
                raise
            log.warning("try %s of %s: %s", attempt, TRIES, error)
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")
