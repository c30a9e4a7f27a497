"""The rollback without Airflow, for when Airflow itself is down: the same steps, the same evidence.

It needs the evidence folder and the plan frozen in it, and the rights to the application's files. The target is put aside
where it can be reached; where not, that stays pending, as it does in a rollback by Airflow. Nobody is told: notices are
recorded, and sent by whoever runs this, or by the outbox once Airflow is back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from include.cutover.aftercare import rows_since_go_live
from include.cutover.connections import environment, tls
from include.cutover.connections.ssh import Ssh
from include.cutover.errors import CannotCheck, CutoverError, Refused, StepFailed
from include.cutover.evidence import claims, lease, source_lease
from include.cutover.evidence.record import Event, Evidence
from include.cutover.people.identities import Identities
from include.cutover.people.notices import Channel
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

Told = Callable[[str, Report | None], None]
"""Called with a step's name when it begins, and with its report when it ended."""


@dataclass(frozen=True)
class EndsOfEvidence:
    """The ends of a run from its evidence, and from what the caller gives. See ``steps.step.Ends``.

    Attributes:
        source: The SQLite file; from the evidence when left out.
        target: libpq connection string; from the environment's ``AIRFLOW_CONN_…`` when left out.
    """

    evidence: Evidence
    source: Path | None = None
    target: str | None = None

    def source_path(self, plan: Plan) -> Path:
        """The SQLite file that the run was opened on."""
        opened = self.evidence.last("run.opened") or {}
        found = self.source or opened.get("source")
        if not found:
            raise CannotCheck(
                "the evidence does not say which SQLite file it was",
                where=str(self.evidence.folder),
                do="Name it with --source.",
            )
        return Path(found)

    def target_conninfo(self, plan: Plan, application_name: str) -> str:
        """The target as it was given, or from the environment."""
        given = self.target or environment.conninfo(plan.connections.target)
        if given is None:
            raise CannotCheck(
                "nothing says how to log in to the target",
                where=f"connection {plan.connections.target}",
                expected=f"--target, or {environment.variable(plan.connections.target)} in the environment",
            )
        where = f"connection {plan.connections.target}" if self.target is None else "--target"
        conninfo = tls.demanded(given, plan.tls, where)
        return make_conninfo(conninfo, application_name=application_name[:63], connect_timeout=10)

    def application_role(self, plan: Plan) -> str | None:
        """The role that the run recorded when it took the target."""
        event = self.evidence.last("lease.target") or {}
        return event.get("application_role")

    def application_url(self, plan: Plan) -> str:
        """Going back needs no address of the target."""
        raise Refused("the application is not pointed at the target by a rollback", where=plan.name)

    def channels(self, plan: Plan) -> Sequence[Channel]:
        """None: the channels are Airflow's connections."""
        return []

    def identities(self) -> Identities:
        """Nobody's: no gate is asked without Airflow."""
        return Identities({}, "no Airflow", "")

    def remote(self, plan: Plan, connection: str) -> Ssh:
        """The host of an SSH connection of the environment."""
        return environment.host(connection, unverified=plan.connections.ssh_unverified)


def rollback(
    plan: str,
    folder: Path,
    *,
    reason: str,
    by: str,
    source: Path | None = None,
    target: str | None = None,
    tell: Told = lambda _name, _report: None,
) -> Report:
    """Roll back the run whose evidence is in ``folder``. Safe to call again after it failed or was killed.

    Args:
        plan: The plan's name.
        by: Who asks; stands in the evidence.
        source: The SQLite file, where it is elsewhere than the evidence says.
        target: libpq connection string.

    Returns:
        The report of the closed run.

    Raises:
        CannotCheck: When the folder holds no evidence of that plan.
        Refused: When there is nothing to roll back.
        CutoverError: When a step did not come to its end; the run is sealed as failed, and calling again goes on.
    """
    evidence, opened = _run_in(folder, plan)
    caller = Caller(dag_id=NAME, run_id=_own_run_id(), actor=by, params={"reason": reason, "run_id": opened["run_id"]})
    ends = EndsOfEvidence(evidence, source, target)
    frozen = frozen_plan(evidence)

    def perform(name: str, body: Body, arguments: Mapping[str, Any] | None = None) -> Report:
        tell(name, None)
        report = _with_patience(lambda: _attempt(Step(plan, name, caller, ends, frozen), body, arguments))
        tell(name, report)
        if report.outcome == "failed":
            raise StepFailed(report.failure, where=name)
        return report

    def close() -> Report:
        return perform(runbook.CLOSE_ROLLBACK, close_run.close_rollback)

    try:
        perform(runbook.OPEN_ROLLBACK, open_rollback, {"anybody": True})
        try:
            if has_touched(evidence.events()):
                for row in runbook.way(ROLLBACK):
                    perform(row.name, steps_rollback.BODIES[row.name])
            else:
                perform(runbook.GIVE_UP, steps_rollback.give_up)
        except CutoverError:
            # Whatever stopped it, the run is closed as what it is; it is not for its closing to hide the reason.
            try:
                close()
            except CutoverError as error:
                log.error("%s", error)
            raise
        return close()
    finally:
        _give_to_owner(evidence.folder, Evidence.of(plan, caller.run_id).folder)


def _attempt(step: Step, body: Body, arguments: Mapping[str, Any] | None) -> Report:
    return run(step, body, runbook.terms_of(step.name, step.plan), arguments)


def _give_to_owner(folder: Path, own: Path) -> None:
    """What root wrote into the evidence belongs to whom the evidence belongs: Airflow goes on with it later."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    beside = [item for item in folder.parent.iterdir() if item.is_file()]
    for path in (own, *own.rglob("*"), *folder.rglob("*"), *beside, *(folder.parent / ".claims").rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def close_by_hand(folder: Path, *, reason: str, by: str, source: Path | None = None) -> str:
    """Close a run whose application was brought back to SQLite by hand, so that nothing of it acts any more.

    Nothing but the evidence and the leases is changed. The target is shut out and put aside before any later run may start.

    Returns:
        The run id.

    Raises:
        CannotCheck: When the folder holds no evidence of a run.
        Refused: When the run is closed already, or its fence still stands around the database.
    """
    evidence, opened = _run_in(folder)
    run_id, plan = str(opened["run_id"]), str(opened["plan"])
    sealed = evidence.sealed
    if sealed is not None and sealed["outcome"] != "failed":
        raise Refused("the run is closed already", where=run_id, found=f"{sealed['outcome']} at {sealed['time']}")
    database = source or Path(opened["source"])
    state = fence.status(database)
    if state.raised or state.note is not None:
        raise Refused(
            "the database is still fenced",
            where=str(database),
            expected="a database on which the application runs",
            found=state.detail,
            do="Use the rollback. If the backup is in place, remove the fence's note beside it.",
        )
    holder = f"{NAME}/{_own_run_id()}"
    lease.take_over(plan, run_id, holder)
    claims.wait_for_others(plan, lambda: lease.holds(plan, run_id, holder))
    evidence.append("rollback.asked", by=by, reason=reason, holder=holder)
    evidence.append("target.pending", run_id=run_id)
    rows_since_go_live.record_unknown(evidence, "the way back was by hand, and nobody counted")
    source_lease.release(database, run_id)
    evidence.append("sealed", outcome="rolled_back", summary=f"rolled back by hand: {reason}", by=holder)
    return run_id


def _run_in(folder: Path, plan: str | None = None) -> tuple[Evidence, Event]:
    """The evidence in a folder and how its run was opened; from here on the evidence root is the folder's."""
    folder = folder.resolve()
    evidence = Evidence(folder)
    opened = evidence.last("run.opened")
    if (
        opened is None
        or folder.parent.name != opened["plan"]
        or plan not in (None, opened["plan"])
        or opened.get("rehearsal")  # it worked on a clone
    ):
        raise CannotCheck(
            "this folder is not the evidence of a run" + (f" of the plan {plan}" if plan else ""),
            where=str(folder),
            expected=f"…/{plan or '<plan>'}/<run id>/ with the events of a cutover",
            do="The folders of all runs are below the evidence root, one for each plan.",
        )
    os.environ["CUTOVER_EVIDENCE"] = str(folder.parent.parent)
    return evidence, opened


def _own_run_id() -> str:
    return f"{NAME}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def _with_patience(call: Callable[[], Report]) -> Report:
    """Try again where that may help, as Airflow does."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            if attempt == TRIES or (isinstance(error, CutoverError) and not error.retry_helps):
                raise
            log.warning("try %s of %s: %s", attempt, TRIES, error)
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")
